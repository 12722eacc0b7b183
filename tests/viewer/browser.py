"""A person at a browser: headless Chromium on the viewer's page, by what stands on the page."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from artifixer.viewer.scene import ViewedScene

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

#: Longest time for anything to appear, seconds; machines under load are slow.
PATIENCE = 40.0

#: Longest side in pixels of a picture at rest; those in motion are smaller.
FULL_SIZE = 640

#: Notes every picture of the scene that the page decodes: when, and its size. The page's own
#: environment map (1024 pixels wide) is none, nor are the photos in the cameras' frusta (72).
COUNT_PICTURES = """
window.pictures = [];
const note = (bitmap) =>
  bitmap.width !== 1024 && Math.max(bitmap.width, bitmap.height) > 72 &&
    window.pictures.push([performance.now(), bitmap.width, bitmap.height]);
const decode = window.createImageBitmap.bind(window);
window.createImageBitmap = async (source, ...rest) => {
  const bitmap = await decode(source, ...rest);
  if (source instanceof Blob && source.type === 'image/jpeg') note(bitmap);
  return bitmap;
};
const address = URL.createObjectURL.bind(URL);
URL.createObjectURL = (source) => {
  if (source.type === 'image/jpeg') decode(source).then(note);
  return address(source);
};
"""


def no_model(scene: ViewedScene) -> NoReturn:
    """``PageConfig.load`` of a page on which repair stays off."""
    raise AssertionError(f"a model is asked for by {scene.name}")


def chromium() -> tuple[str, str]:
    """Paths of Chromium and its driver; skips the test where they are absent."""
    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in found or sys.platform == "win32":
        pytest.skip("needs chromium and chromedriver")
    return str(found[0]), str(found[1])


class Page:
    """One browser with one or more tabs."""

    def __init__(self, driver: Any, size: tuple[int, int]) -> None:
        self.driver, self.size = driver, size
        self._counting: set[str] = set()

    def resize(self) -> None:
        """Give the present tab the browser's size; new ones have another."""
        metrics = {"deviceScaleFactor": 1, "mobile": False}
        metrics |= dict(zip(("width", "height"), self.size, strict=True))
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, address: str) -> None:
        """Load the page in the present tab, and wait for the scene."""
        if self.driver.current_window_handle not in self._counting:
            script = {"source": COUNT_PICTURES}
            self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
            self._counting.add(self.driver.current_window_handle)
            self.resize()
        self.driver.get(address)
        self.until(self.pictures, "a picture arrives")
        # messages at the edge of the page would be part of the picture, and take clicks
        self.driver.execute_script(
            "const style = document.createElement('style');"
            "style.textContent = '.mantine-Notifications-root { opacity: 0 }' +"
            "' .mantine-Notifications-root * { pointer-events: none !important }';"
            "document.head.append(style)"
        )
        # decoded is not yet drawn
        self.until(lambda: self.view().std() > 5, "the scene is drawn")

    def until(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        """Wait for something; fails naming it."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.05)
        raise AssertionError(f"waited {patience:g} s in vain: {what}\n{self.text()[-800:]}")

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def has_text(self, text: str) -> bool:
        return text in self.text()

    def pictures(self) -> list[tuple[float, int, int]]:
        """(milliseconds, width, height) of every picture that has arrived."""
        return [tuple(row) for row in self.driver.execute_script("return window.pictures || []")]

    def requests(self, *documents: str) -> list[str]:
        """What these documents have asked for since the last call; the browser's own start page
        asks too.
        """
        messages = (
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        )
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            and message["params"]["documentURL"] in documents
        ]

    def view(self) -> np.ndarray:
        """What the person sees of the scene: the canvas without the panel, ``[height width 3]``."""
        pixels = np.asarray(Image.open(io.BytesIO(self.driver.get_screenshot_as_png())))[..., :3]
        left = self.driver.execute_script(
            "const labels = [...document.querySelectorAll('label')].filter(l => l.offsetWidth);"
            "return Math.min(...labels.map(l => l.getBoundingClientRect().left))"
        )
        width = int(left) - 40 if isinstance(left, (int, float)) and left > 200 else 10**6
        return pixels[:, : min(width, pixels.shape[1])].astype(np.float32)

    def settled(self, size: int = FULL_SIZE) -> np.ndarray:
        """The view at rest: the newest picture has this longest side, as one at rest has, and is
        drawn, since screenshots do not change.
        """
        self.until(
            lambda: max(self.pictures()[-1][1:]) == size, f"a picture at rest of {size} pixels"
        )
        last = self.view()
        end = time.monotonic() + PATIENCE
        same = 0
        while time.monotonic() < end:
            time.sleep(0.15)
            now = self.view()
            same = same + 1 if now.shape == last.shape and np.abs(now - last).mean() < 0.05 else 0
            if same == 2 and max(self.pictures()[-1][1:]) == size:
                return now
            last = now
        raise AssertionError("the view never stops changing")

    def drag(self, across: int, down: int = 0, steps: int = 12) -> None:
        """Turn the view with the mouse, as slowly as a hand."""
        from selenium.webdriver.common.action_chains import ActionChains

        width, height = self.driver.execute_script("return [innerWidth, innerHeight]")
        chain = ActionChains(self.driver, duration=20)
        chain.w3c_actions.pointer_action.move_to_location(width // 3, height // 3)
        chain.w3c_actions.pointer_action.pointer_down()
        for _ in range(steps):
            chain.w3c_actions.pointer_action.move_by(int(across / steps), int(down / steps))
            chain.w3c_actions.pointer_action.pause(0.03)
        chain.w3c_actions.pointer_action.pointer_up()
        chain.perform()

    def drag_element(self, element: Any, across: int, down: int) -> None:
        """Drag from the middle of an element."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver).move_to_element(element).click_and_hold()
        chain.move_by_offset(across, down).release().perform()

    def click_at(self, across: int, down: int) -> None:
        """Click on a point of the window."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver, duration=50)
        chain.w3c_actions.pointer_action.move_to_location(across, down)
        chain.w3c_actions.pointer_action.pause(0.1)
        chain.w3c_actions.pointer_action.pointer_down()
        chain.w3c_actions.pointer_action.pause(0.05)
        chain.w3c_actions.pointer_action.pointer_up()
        chain.perform()

    def tab(self, name: str) -> None:
        """Open a tab of the panel."""
        path = f"//*[normalize-space(text())='{name}']"

        def opened() -> bool:
            for element in self.driver.find_elements("xpath", path):
                if element.is_displayed():
                    element.click()  # a dragged tab floats, so it wants a true mouse
                    return True
            return False

        self.until(opened, f"tab {name}")

    def button(self, name: str) -> None:
        self._click(f"//button[normalize-space()='{name}']")

    def check(self, label: str) -> None:
        """Flip a checkbox."""
        self._click(f"//input[@type='checkbox'][@id=//label[normalize-space()='{label}']/@for]")

    def choose(self, label: str, option: str) -> None:
        """Choose another entry of a list, and wait for the picture that follows."""
        self._click(f"//input[@id=//label[normalize-space()='{label}']/@for]")
        arrived = len(self.pictures())
        self._click(f'//*[@role="option"][normalize-space()="{option}"]')
        if label in ("Layer", "Compare", "Lens"):
            self.until(lambda: len(self.pictures()) > arrived, f"a picture of {option}")

    def upload(self, file: Path) -> None:
        found = self.driver.find_elements("xpath", "//input[@type='file']")
        found[-1].send_keys(str(file))

    def _click(self, path: str) -> None:
        def clicked() -> bool:
            found = self.driver.find_elements("xpath", path)
            # lists that were open before are still in the page, hidden; so are plain checkboxes
            shown = [e for e in found if e.is_displayed()] or found[:1]
            shown = shown if "option" not in path or (shown[:1] and shown[0].is_displayed()) else []
            if not shown:
                return False
            self.driver.execute_script(
                "arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", shown[0]
            )
            return True

        self.until(clicked, path)


@contextmanager
def browser(
    folder: Path, size: tuple[int, int] = (1000, 700), flags: tuple[str, ...] = ()
) -> Iterator[Page]:
    """A fresh browser whose profile and downloads lie in ``folder``."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    program, driver_program = chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, *flags, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    options.add_argument(f"--window-size={size[0]},{size[1]}")
    downloads = {"download.default_directory": str(folder / "downloads")}
    options.add_experimental_option("prefs", downloads)
    driver = webdriver.Chrome(options=options, service=Service(driver_program))
    try:
        page = Page(driver, size)
        page.resize()
        yield page
    finally:
        driver.quit()


@contextmanager
def served(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``artifixer view`` as a process; its address. Ctrl-C ends it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "artifixer", "view", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        start_new_session=True,
        # background jobs of a shell inherit that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    said = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"open (http://\S+)", line):
                break
        else:
            raise AssertionError(f"the server ended: {''.join(said)}")
        yield found[1], process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            if process.poll() is None:
                process.kill()
