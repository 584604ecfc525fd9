"""A real browser for tests: Debian's chromium, in a profile of its own, driven by Selenium.

Selenium and not Playwright: Debian builds chromedriver with each chromium from one source, so the
driver always fits the browser, while a pinned Playwright fits the one browser that it brings along.
Promises: nothing is asked of the world outside of loopback, and no process is left behind. The
browser's own sandbox is off for root alone, who cannot have it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.platforms import clean_environment
from tests.processes import PROC, alive, births, family, wait_until

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
END_S_MAX = 10.0
SHOWN_S_MAX = 15.0
PHONE = (360, 740)
"""CSS pixels of a small one."""
OPTIONS = (
    "--headless=new",
    "--no-proxy-server",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--window-size=900,800",
)


class Page:
    """One browser with one page, and what a person does there."""

    def __init__(self, driver: webdriver.Chrome, downloads: Path) -> None:
        """Look through a driver; files are saved into `downloads`."""
        self.driver = driver
        self.downloads = downloads

    def find(self, selector: str) -> WebElement:
        """Wait until an element is shown, and return it."""
        self.wait_for(selector)
        return next(each for each in self.all(selector) if each.is_displayed())

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements that are there now."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait_for(self, selector: str, text: str = "") -> None:
        """Wait until an element that holds this text is shown."""

        def is_shown() -> bool:
            script = (
                "return [...document.querySelectorAll(arguments[0])].some((each) =>"
                " each.checkVisibility() && each.innerText.includes(arguments[1]))"
            )
            return bool(self.run(script, selector, text))

        wait_until(is_shown, f"{selector} shows {text!r}", deadline_s=SHOWN_S_MAX)

    def type(self, selector: str, text: str) -> None:
        """Type into a field; a line's end is the Enter key."""
        self.find(selector).send_keys(text)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file, which a field need not be shown for."""
        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys(str(file))

    def run(self, script: str, *given: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *given)

    def look(self, *, dark: bool = False, size: tuple[int, int] | None = None) -> None:
        """Look with other eyes: in the dark, through a phone."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        if size is None:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            return
        phone = {"width": size[0], "height": size[1], "deviceScaleFactor": 2, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)

    def save(self, file: Path) -> None:
        """Keep a picture of what is shown."""
        assert self.driver.save_screenshot(str(file)), file

    def complaints(self) -> list[str]:
        """Return what the browser's console told since it was last asked, warnings and worse."""
        entries = self.driver.execute("getLog", {"type": "browser"})["value"]
        return [entry["message"] for entry in entries]


@contextmanager
def browser() -> Iterator[Page]:
    """Open a browser for the length of a `with` block; nobody else's cookies are in it."""
    with tempfile.TemporaryDirectory(prefix="kythera-browser-") as folder:
        downloads = Path(folder) / "downloads"
        downloads.mkdir()
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.set_capability("goog:loggingPrefs", {"browser": "WARNING"})
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        for option in (*OPTIONS, f"--user-data-dir={folder}/profile"):
            options.add_argument(option)
        if os.geteuid() == 0:
            options.add_argument("--no-sandbox")
        service = Service(DRIVER, env=clean_environment(HOME=folder))
        driver = webdriver.Chrome(options, service)
        try:
            yield Page(driver, downloads)
        finally:
            born = births(family(service.process.pid) | owners_of(folder))
            driver.quit()
            wait_until(lambda: not alive(born), f"ended: {alive(born)}", deadline_s=END_S_MAX)


def owners_of(folder: str) -> set[int]:
    """Return the processes that name a folder in their arguments, whoever is their parent now."""
    found = {int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()}
    return {pid for pid in found if folder.encode() in arguments(pid)}


def arguments(pid: int) -> bytes:
    """Return a process's whole command line; none once it is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
