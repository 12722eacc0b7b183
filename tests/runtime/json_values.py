"""Values that are written as JSON and hashed."""

import dataclasses
import enum

from hypothesis import strategies as st

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda children: (
        st.lists(children) | st.dictionaries(st.text(st.characters(codec="utf-8")), children)
    ),
    max_leaves=20,
)


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    iterations: int = 3
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")
