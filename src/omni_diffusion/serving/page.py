"""The page at `/`: its files, and the headers that keep it from asking anything of anybody else."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from omni_diffusion import html

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data: blob:",
    "media-src": "data: blob:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{what} {where}" for what, where in POLICY.items()),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Asset:
    """One file of the page as it is sent."""

    content_type: str
    body: bytes


def assets() -> dict[str, Asset]:
    """The files by their paths: the page itself at "/", what it loads under "/web/"."""
    folder = resources.files("omni_diffusion.serving") / "web"
    texts = {item.name: item.read_text(encoding="utf-8") for item in folder.iterdir()}
    texts["page.css"] = html.style() + html.asset("replay.css") + texts["page.css"]
    texts["html.js"] = html.asset("html.js")
    found = {f"/web/{name}": _asset(name, text) for name, text in texts.items()}
    return {"/": found.pop("/web/index.html"), **found}


def _asset(name: str, text: str) -> Asset:
    kind = TYPES[name.rpartition(".")[2]]
    return Asset(f"{kind}; charset=utf-8", text.encode())
