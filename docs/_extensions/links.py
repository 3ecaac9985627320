"""Check every internal link of the built pages: the file and the anchor that it leads to exist."""
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


class Page(HTMLParser):
    """The anchors of a page and the links on it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: Set[str] = set()
        self.links: List[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: List[Tuple[str, Optional[str]]]) -> None:
        values = dict(attributes)
        self.anchors.update(value for value in (values.get("id"), values.get("name")) if value)
        link = values.get("href") if tag == "a" else values.get("src")
        if link:
            self.links.append(link)


def broken(folder: Path) -> List[str]:
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (parts.fragment and target in pages
                                        and unquote(parts.fragment) not in pages[target].anchors):
                found.append("{}: {}".format(path.relative_to(folder.resolve()), link))
    return found


def check(app: Sphinx, exception: Optional[Exception]) -> None:
    if exception is None and app.builder.name == "html":
        found = broken(Path(app.outdir))
        if found:
            raise ExtensionError("broken links:\n  " + "\n  ".join(found))


def setup(app: Sphinx) -> Dict[str, Any]:
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
