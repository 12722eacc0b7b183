"""GLSL of draw.py.

Vertex attributes: p point, n normal, t texture coordinates, l light (rgb, or -1 and the lightmap's
coordinates), m material, e emission. ``table`` holds two rows a material: colour and picture layer;
roughness, metalness, alpha, emission.
"""

SURFACE_VERTEX = """
#version 330
uniform mat4 world_to_clip; uniform vec3 eye; uniform mat4 world_to_sun;
in vec3 p; in vec3 n; in vec2 t; in vec3 l; in float m; in float e;
out vec3 P; out vec3 N; out vec2 T; out vec3 L; flat out int M; out float E; out vec4 in_sun;
void main() {
    gl_Position = world_to_clip * vec4(p, 1);
    P = p; N = n; T = t; L = l; M = int(m + 0.5); E = e;
    in_sun = world_to_sun * vec4(p + n * 0.012, 1);
}
"""

SURFACE_FRAGMENT = """
#version 330
uniform vec3 eye; uniform vec3 forward; uniform int mode; uniform int glass;
uniform sampler2DArray pictures; uniform sampler2D lightmap; uniform sampler2D table;
uniform sampler2D mirror; uniform sampler2DShadow shadow;
uniform vec3 sun_direction; uniform vec3 sun_color;
uniform vec3 box_low; uniform vec3 box_high; uniform vec3 probe;
uniform float gloss; uniform float mean_light;
in vec3 P; in vec3 N; in vec2 T; in vec3 L; flat in int M; in float E; in vec4 in_sun;
layout(location = 0) out vec4 color; layout(location = 1) out float depth;

vec3 environment(vec3 d, float lod) {
    float latitude = asin(clamp(d.z, -1.0, 1.0));
    vec2 uv = vec2(0.5 - atan(d.y, d.x) / 6.2831853, 0.5 - latitude / 3.14159265);
    return textureLod(mirror, uv, lod).rgb;
}

void main() {
    vec4 a = texelFetch(table, ivec2(M, 0), 0), b = texelFetch(table, ivec2(M, 1), 0);
    vec3 albedo = a.rgb;
    if (a.a >= 0.0) {
        vec4 s = texture(pictures, vec3(T.x, 1.0 - T.y, a.a));
        if (s.a < 0.5) discard;
        albedo *= pow(s.rgb, vec3(2.2));
    }
    albedo = clamp(albedo, 0.008, 0.9);
    vec3 light = L.x < 0.0 ? texture(lightmap, vec2(L.y, L.z)).rgb : L;
    vec3 normal = dot(N, N) > 0.01 ? normalize(N) : normalize(cross(dFdx(P), dFdy(P)));
    vec3 view = normalize(eye - P);
    float facing = dot(normal, -sun_direction);
    if (mode > 0 && facing > 0.0) {
        float lit = 0.0;
        vec3 q = in_sun.xyz * 0.5 + 0.5;
        for (int i = -1; i <= 1; i++) for (int j = -1; j <= 1; j++)
            lit += texture(shadow, q + vec3(vec2(i, j) * 0.0006, -0.0008));
        light += sun_color * facing * lit / 9.0;
    }
    if (dot(normal, view) < 0.0) normal = -normal;
    float rough = b.x, metal = b.y;
    vec3 glow = E * vec3(1.0, 0.82, 0.6) * (0.25 + albedo) + b.w * albedo * mean_light;
    vec3 result = albedo * light * (1.0 - 0.7 * metal) + glow;
    if (gloss > 0.0) {  // the surroundings, projected onto the room's box, blurred by roughness
        vec3 r = reflect(-view, normal);
        vec3 away = abs(mix(box_low, box_high, step(0.0, r)) - P) / max(abs(r), 1e-4);
        float reach = max(min(away.x, min(away.y, away.z)), 0.0);
        vec3 d = normalize(P + r * reach - probe);
        float smoothness = (1.0 - rough) * (1.0 - rough);
        float f = 0.04 + 0.96 * pow(1.0 - max(dot(normal, view), 0.0), 5.0) * smoothness;
        vec3 F = mix(vec3(f), albedo, metal * 0.8) * (1.0 - 0.75 * rough * (1.0 - metal));
        float brightness = dot(light, vec3(0.333)) / (0.35 * mean_light + 1e-4);
        vec3 seen = min(environment(d, 1.0 + rough * 6.0), vec3(12.0 * mean_light));
        result = result * (1.0 - F) + F * seen * clamp(brightness, 0.0, 1.0) * gloss;
    }
    color = glass == 1 ? vec4(result, clamp(b.z, 0.06, 0.6)) : vec4(result, 1.0);
    if (!(color.r + color.g + color.b < 6e4)) color = vec4(vec3(mean_light), 1.0);
    depth = dot(P - eye, forward);
}
"""

SKY_VERTEX = """
#version 330
in vec2 q; out vec2 Q;
void main() { Q = q; gl_Position = vec4(q, 0.9999999, 1); }
"""

SKY_FRAGMENT = """
#version 330
uniform mat3 turn; uniform vec2 tangent; uniform sampler2D sky; uniform float strength; in vec2 Q;
layout(location = 0) out vec4 color; layout(location = 1) out float depth;
void main() {
    vec3 d = normalize(turn * vec3(Q * tangent, -1.0));
    float latitude = asin(clamp(d.z, -1.0, 1.0));
    vec2 uv = vec2(0.5 - atan(d.y, d.x) / 6.2831853, 0.5 - latitude / 3.14159265);
    color = vec4(textureLod(sky, uv, 0.0).rgb * strength, 1);
    depth = 0.0;
}
"""

SHADOW_VERTEX = """
#version 330
uniform mat4 world_to_sun; in vec3 p; in vec2 t; in float m; out vec2 T; flat out int M;
void main() { gl_Position = world_to_sun * vec4(p, 1); T = t; M = int(m + 0.5); }
"""

SHADOW_FRAGMENT = """
#version 330
uniform sampler2DArray pictures; uniform sampler2D table; in vec2 T; flat in int M;
void main() {
    float k = texelFetch(table, ivec2(M, 0), 0).a;
    if (k >= 0.0 && texture(pictures, vec3(T.x, 1.0 - T.y, k)).a < 0.5) discard;
}
"""

TONE_VERTEX = """
#version 330
in vec2 q;
void main() { gl_Position = vec4(q, 0, 1); }
"""

#: A filmic curve; a tent filter a little wider than the pixel, as a lens has.
TONE_FRAGMENT = """
#version 330
uniform sampler2D hdr; uniform vec3 exposure; uniform int n; out vec4 color;
vec3 curve(vec3 x) {
    x = max(x, vec3(0.0)) * 0.72;
    return clamp(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0.0, 1.0);
}
void main() {
    vec3 sum = vec3(0); float total = 0.0; int r = n / 2;
    ivec2 base = ivec2(gl_FragCoord.xy) * n, top = textureSize(hdr, 0) - 1;
    for (int i = -r; i < n + r; i++) for (int j = -r; j < n + r; j++) {
        vec2 o = abs(vec2(i, j) + 0.5 - 0.5 * float(n)) / float(n);
        float w = max(0.0, 1.0 - o.x) * max(0.0, 1.0 - o.y);
        vec3 c = texelFetch(hdr, clamp(base + ivec2(i, j), ivec2(0), top), 0).rgb;
        sum += w * pow(curve(c * exposure), vec3(1.0 / 2.2));
        total += w;
    }
    color = vec4(sum / total, 1);
}
"""
