"""Debian's Chromium, without a screen, and what a person does in it. See `make test-browser`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from processes import wait_until
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

WIDE, PHONE = (1200, 900), (360, 740)
SERIOUS = ("serious", "critical")


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go there, from wherever."""
        self.driver.get("about:blank")
        self.driver.get(url)
        wait_until(lambda: self.run("return document.readyState") == "complete")

    def run(self, script: str, *arguments: Any) -> Any:
        """In the page."""
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, script: str, timeout_s: float = 30.0) -> Any:
        """What a script says as soon as that is something."""
        wait_until(lambda: self.run(script), timeout_s)
        return self.run(script)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def press(self, *keys: str) -> None:
        """Whatever has the focus hears them."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def tab_to(self, selector: str, most: int = 60) -> None:
        """By the keyboard alone. What has the focus on the way must be seen to have it."""
        for _ in range(most):
            if self.run("return document.activeElement.matches(arguments[0])", selector):
                return
            self.press(Keys.TAB)
        raise AssertionError(f"{selector} is not reached by Tab")

    def focus_is_seen(self) -> bool:
        """Whether a ring is around what has the focus, or it looks otherwise than without."""
        script = """
            const style = getComputedStyle(document.activeElement);
            const own = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
            const box = document.activeElement.closest('form') ?? document.activeElement;
            return own || getComputedStyle(box).boxShadow !== 'none';
        """
        return bool(self.run(script))

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def faults(self) -> list[str]:
        """What axe finds that is serious."""
        self.run((files("axe_playwright_python") / "axe.min.js").read_text())
        script = (
            "const done = arguments[arguments.length - 1]; axe.run(document).then((found) => done(found.violations))"
        )
        found = self.driver.execute_async_script(script)
        return [f"{each['id']}: {each['nodes'][0]['html'][:90]}" for each in found if each["impact"] in SERIOUS]

    def requested(self) -> list[dict[str, Any]]:
        """All that the page was made of: `name`, `transferSize`, ..."""
        script = """
            return performance.getEntries()
                .filter((each) => ['navigation', 'resource'].includes(each.entryType))
                .map((each) => each.toJSON());
        """
        return list(self.run(script))

    def errors(self) -> list[str]:
        """What the page's console has heard."""
        return [each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]


def why_not() -> str:
    """Why there is no browser here; empty where one is."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"there is no {' and no '.join(missing)} here" if missing else ""


@contextmanager
def browser(size: tuple[int, int] = WIDE, *, is_dark: bool = False) -> Iterator[Browser]:
    """A window of that size; of a phone's, it is one to touch."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={WIDE[0]},{WIDE[1]}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        about = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", about)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        yield Browser(driver)
    finally:
        driver.quit()
