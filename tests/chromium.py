"""A headless Chromium without a network, for the tests of pages; what it complained about and what it asked for.

Where Chromium is absent the tests are skipped, except where the environment variable `SEQ2EXP_NEEDS_CHROMIUM` is set
(as `.ci/run` does once it has installed it): there its absence is a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NEEDED = "SEQ2EXP_NEEDS_CHROMIUM"
NETWORK = ("http:", "https:", "ws:", "wss:", "ftp:")
PATIENCE_S = 20
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--window-size=1400,1400",
)


@contextmanager
def opened(profile: Path) -> Iterator[Any]:
    """Start Chromium with a fresh profile; yield selenium's driver of it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (browser and driver and importlib.util.find_spec("selenium")):
        reason = "needs chromium and chromedriver on PATH (Debian: chromium, chromium-driver) and selenium"
        (pytest.fail if os.environ.get(NEEDED) else pytest.skip)(reason)
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = browser
    for option in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


def complaints(driver: Any) -> list[str]:
    """Return what the console said since the last call."""
    return [f"{entry['level']} {entry['message']}" for entry in driver.get_log("browser")]


def fetched(driver: Any) -> list[str]:
    """Return the addresses on a network that were asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if url.startswith(NETWORK)]


def until(driver: Any, what: Callable[[Any], Any]) -> Any:
    """Wait until `what` of the driver is true; return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, PATIENCE_S, poll_frequency=0.05).until(what)
