"""A page in a real browser, opened from the disk."""

import os
import shutil

import pytest

ARGUMENTS = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
ARGUMENTS += ("--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e '.[test]'"
    )
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)}): apt-get install chromium")
    arguments = [*ARGUMENTS, *["--no-sandbox"] * (os.geteuid() == 0)]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens a page from the disk, in a window of its own that has no stars yet; errors on it fail the test."""
    faults, contexts = [], []

    def open_(path, width=1440, height=1600, context=None):
        context = context or browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.goto(path.absolute().as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not faults


def reloaded(page, written_by=None):
    """Reloads a page once the browser has what it, or the page `written_by`, has stored.

    The storage is a process of its own: on a busy machine a reload within a moment of the last write finds it empty,
    and another page sees the write a moment later.
    """
    stored = (written_by or page).evaluate("({...localStorage})")
    for _ in range(50):
        page.reload()
        if page.evaluate("({...localStorage})") == stored:
            return
        page.wait_for_timeout(200)
    raise AssertionError(f"the browser lost {stored}")
