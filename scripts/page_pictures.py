"""Photograph the page of a running server for the docs, light and dark, wide and narrow.

    omni-diffusion serve &
    python scripts/page_pictures.py http://127.0.0.1:8000/

writes docs/images/page-*.webp. Needs playwright and Debian's chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

OUT = Path(__file__).resolve().parent.parent / "docs" / "images"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
).split()
PATIENCE = 120_000  # milliseconds for an answer


def open_page(browser: Browser, url: str, size: tuple[int, int], scheme: Any) -> Any:
    """The page, once it has loaded its examples."""
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
    )
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.locator(".example img").first.wait_for()
    return page


def example(page: Any, title: str) -> None:
    """Send an example."""
    page.locator("#examples").evaluate("home => { home.open = true; }")
    page.click(f".example:has(b:text-is('{title}'))")


def answered(page: Any, number: int) -> None:
    """Wait for so many answers."""
    page.locator("#session .card:not(.busy)").nth(number - 1).wait_for()


def photograph(page: Any, name: str) -> None:
    """What the window shows, as docs/images/NAME.webp."""
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(300)
    shot = Image.open(io.BytesIO(page.screenshot()))
    shot.save(OUT / f"{name}.webp", quality=88, method=6)
    page.close()


def main() -> None:
    """Take the four pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="address of the page")
    url = parser.parse_args().url
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = open_page(browser, url, (1100, 1000), "light")
        page.click("button:has-text('Settings')")
        page.fill("input[name=steps]", "64")  # by default the picture is there in a few steps
        page.click("button:has-text('Settings')")
        page.fill("textarea", "a bus to the left of a penguin on a yellow background")
        page.click("button:has-text('Send')")
        answered(page, 1)
        page.fill(".replay input[type=range]", "44")
        photograph(page, "page-wide-light")
        page = open_page(browser, url, (1100, 1000), "dark")
        example(page, "Spoken description to image")
        answered(page, 1)
        photograph(page, "page-wide-dark")
        photograph(open_page(browser, url, (390, 780), "light"), "page-narrow-light")
        page = open_page(browser, url, (390, 780), "dark")
        example(page, "A spoken question about an image, answered in text and speech")
        answered(page, 1)
        photograph(page, "page-narrow-dark")
        browser.close()


if __name__ == "__main__":
    main()
