"""Pages of the site that are files elsewhere in the repository: the README, the notebooks, what contributors read."""

import html
import re
import unicodedata
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
NAMES = {origin: page for page, origin in PAGES.items()} | {"notebooks": "notebooks/01_fit_and_sample.ipynb"}


@event_priority(100)  # before notebooks are turned into pages
def on_files(files: Any, config: Any) -> Any:
    """Add them."""
    for page, origin in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / origin).read_text()))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File(f"notebooks/{notebook.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Their links, and those to them, as paths of the site; what is not on it is no link."""

    def placed(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if target.startswith(("http", "#")):
            return match[0]
        target = target.removeprefix("docs/").removeprefix("../")
        target = NAMES.get(target, target)
        known = target.startswith("notebooks/") or (ROOT / "docs" / target.partition("#")[0]).exists()
        return f"[{text}]({target})" if known or target in PAGES else text

    return re.sub(r"\[((?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*)\]\(([^)\s]+)\)", placed, markdown)


# What is no text of a page, and formulas in what is.
OTHER = re.compile(r"(<(pre|code|script|style)\b.*?</\2>|<[^>]*>)", re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)


# Letters of a style that MathML has no attribute for any more.
LETTER = re.compile(r'<mi mathvariant="(double-struck|script)">([A-Z])</mi>')


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Formulas of notebooks as MathML, which browsers draw without a script."""

    def letter(match: re.Match[str]) -> str:
        name = f"{match[1].upper()} CAPITAL {match[2]}"
        try:
            return f"<mi>{unicodedata.lookup(f'MATHEMATICAL {name}')}</mi>"
        except KeyError:
            return f"<mi>{unicodedata.lookup(name)}</mi>"

    def drawn(match: re.Match[str]) -> str:
        text = html.unescape(match[1] or match[2]).replace("{aligned}", "{align*}")
        return LETTER.sub(letter, convert(text, display="block" if match[1] else "inline"))

    if not page.file.src_uri.startswith("notebooks/"):
        return content
    parts = OTHER.split(content)  # text, and of what follows it the whole and the name of the tag
    return "".join(FORMULA.sub(drawn, part) if i % 3 == 0 else part for i, part in enumerate(parts) if i % 3 < 2)
