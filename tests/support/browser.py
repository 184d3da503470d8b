"""A headless Chromium for tests of pages: opened with a profile of its own, and asked."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# The browser calls nobody: no update, no sync, no first page. --no-sandbox: tests may run as root.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def open_browser(profile: Path) -> Iterator[Any]:
    """Opens Chromium, and closes it at the end; skips the test where there is none.

    Args:
      profile: an empty folder, for the profile.

    Yields:
      The driver (`selenium.webdriver.Chrome`).
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=chromedriver)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, width: int, height: int = 800) -> None:
    """Gives the page a size in pixels, also one that is too small for a window."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def overflow(driver: Any) -> int:
    """Returns by how many pixels the page is wider than the window: 0, unless it scrolls."""
    return driver.execute_script(
        "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    )


def broken_images(driver: Any) -> list[str]:
    """Returns the alternative texts of the images that did not load."""
    return driver.execute_script(
        "return [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
    )


def complaints(driver: Any) -> list[str]:
    """Returns what the console has said since it was last asked: errors and warnings."""
    said = driver.get_log("browser")
    return [entry["message"] for entry in said if entry["level"] in ("SEVERE", "WARNING")]
