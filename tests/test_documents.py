"""The documents hold together: links lead somewhere, files that are named exist, the site lists
every page, API pages name real modules, and versions agree.
"""

import importlib
import re
from pathlib import Path

import pytest
import yaml

import artifixer

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [*PAGES, *sorted(ROOT.glob("*.md"))]

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")

#: Files and folders of the repository as documents name them: from its root, or from the package.
PLACE = re.compile(
    r"(?<![\w/.\\-])"
    r"((?:artifixer|benchmarks|docs|examples|tests|tools)/[\w./-]*\w|\w[\w-]*(?:/[\w-]+)*\.py)\b"
)

#: Files that documents tell the reader to write.
OWN_FILES = {"artifixer/scenes/my_format.py"}

HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Headings as the site and common viewers make them into anchors."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    plain = (re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in HEADING.findall(text))
    return {heading.replace(" ", "-") for heading in plain}


def nav_pages(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in nav_pages(part)]


def site() -> dict:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_in_a_document_leads_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{path.name}: no heading for {link}"


def test_documents_named_files_that_had_moved():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
    rooms = ("artifixer", "benchmarks", "examples", "tests", "tools")
    known = {path.name for room in rooms for path in (ROOT / room).rglob("*.py")}
    named, wrong = 0, []
    for path in documents:
        for place in PLACE.findall(path.read_text(encoding="utf-8")):
            named += 1
            exists = (
                (ROOT / place).exists() or (ROOT / "artifixer" / place).exists()
                if "/" in place
                else place in known
            )
            if not exists and place not in OWN_FILES:
                wrong.append(f"{path.relative_to(ROOT)}: {place}")
    assert named > 50 and wrong == []


def test_the_site_lists_every_page_once():
    assert sorted(nav_pages(site()["nav"])) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_every_api_page_names_modules_that_have_a_docstring():
    names = [
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert names
    for name in names:
        assert importlib.import_module(name).__doc__, name


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == artifixer.__version__
    import importlib.metadata

    assert importlib.metadata.version("artifixer") == artifixer.__version__
