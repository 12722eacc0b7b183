"""ArtiFixer: repair and extend 3D captures.

The rooms, in the order in which data flows; imports only go down this list's floors.

===========  =====  ==============================================================
room         floor  what happens there
===========  =====  ==============================================================
runtime      F0     the process: run folders, seeds, media files, progress, errors
geometry     F0     cameras, rigid transforms, rays, camera paths (tensors only)
imaging      F0     image metrics and resizing
scenes       F1     photos on disk -> ``Scene``
video        F1     the video diffusion model: conditions, network, sampling
splats       F2     ``Scene`` -> ``Splats`` -> ``Renders``
pairs        F2     what training reads
enhance      F3     renders -> clean frames -> splats again
curation     F3     scenes -> training pairs
training     F3     one loop, four stages
evaluation   F4     protocols, metrics, reports
viewer       F4     look around in a scene
pipeline     F5     whole jobs: capture -> report
recipes      F6     named full settings
cli          F7     one verb per job
===========  =====  ==============================================================

Importing this package imports nothing else.
"""

__version__ = "0.1.0"
