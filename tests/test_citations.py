"""What docstrings cite of the paper exists there: its sections, and its four numbered equations."""

import re
from pathlib import Path

import pytest

import artifixer

MODULES = sorted(Path(artifixer.__file__).parent.rglob("*.py"))

#: Sections with text of their own, and the appendix.
SECTIONS = {"3", "4.1", "4.2", "5.1", "5.2", "5.3", "5.4", "6"}
APPENDIX = {"A", "B"}

#: 3 and 4 embed rays and opacity. 1 and 2 are the alpha compositing of 3DGS, which nothing here
#: cites; the mixing formula has no number.
CITED_EQUATIONS = {"3", "4"}

_LIST = r"((?:\d[\d.]*|[A-Z]\b)(?:(?:,| and| or| to)+ (?:\d[\d.]*|[A-Z]\b))*)"


def citations(source: str) -> list[tuple[str, str]]:
    """(kind, number) of everything that a sentence with the word paper cites: ``("section",
    "4.1")``.
    """
    text = " ".join(line.strip().lstrip("#: ") for line in source.splitlines())
    found = []
    for sentence in re.findall(r"[^.;]*\bpaper\b(?:[^.]|\.(?=\d))*", text):
        for kind, numbers in re.findall(r"\b(section|equation|appendix)s?\s+" + _LIST, sentence):
            found += [
                (kind, number.rstrip(".")) for number in re.findall(r"\d[\d.]*|[A-Z]", numbers)
            ]
    return found


@pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(MODULES[0].parent).as_posix()
)
def test_cited_places_of_the_paper_exist(path: Path) -> None:
    known = {"section": SECTIONS, "appendix": APPENDIX, "equation": CITED_EQUATIONS}
    assert [
        (kind, number) for kind, number in citations(path.read_text()) if number not in known[kind]
    ] == []


def test_citations_are_seen() -> None:
    assert citations('"""Opacity (paper section 4.4)."""') == [("section", "4.4")]
    assert citations("#: Rays (paper equations 2 and 3); and\n#: the paper, appendix C") == [
        ("equation", "2"),
        ("equation", "3"),
        ("appendix", "C"),
    ]
    assert citations("the paper's fit (section 5.1 and\nappendix B)") == [
        ("section", "5.1"),
        ("appendix", "B"),
    ]
    assert citations("in (paper sections 4.2 to 4.4).") == [("section", "4.2"), ("section", "4.4")]
    assert citations("Kheradmand et al., equation 9") == []
    assert len([item for path in MODULES for item in citations(path.read_text())]) > 20
