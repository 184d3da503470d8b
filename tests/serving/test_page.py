"""The page in a real browser: a picture is chosen, and its classes and their explanation appear."""

import base64
import io
import time

import numpy as np
import pytest
from PIL import Image

from tests.support import browser

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.by import By

HOSTILE = "<img src=x onerror=\"document.title='run'\">"
LONG = "a class with a long name that_has_no_place_where_a_line_may_end_" + "and_goes_on_" * 5
NETWORK = {
    "name": "runs/<b>a</b>",
    "method": "grad_cam",
    "methods": [
        {"name": "grad_cam", "title": "Grad-CAM"},
        {"name": "occlusion", "title": "occlusion"},
    ],
    "tasks": [
        {"name": "kind", "kind": "multi_class", "classes": [HOSTILE, LONG, "round"]},
        {"name": "tags", "kind": "multi_label", "classes": ["red", "bright"]},
        {"name": "weight", "kind": "regression", "classes": []},
    ],
}
OVERLAY = (200, 40, 90)


def png(colour, size=(40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def row(task, index, probability, is_predicted, threshold=None) -> dict:
    name = NETWORK["tasks"][task]["classes"][index]
    return {
        "index": index, "name": name, "probability": probability, "threshold": threshold,
        "is_predicted": is_predicted,
    }  # fmt: skip


class Asked:
    """Answers in the form of `Answers`, and keeps what was asked."""

    def __init__(self):
        self.questions = []

    def __call__(self, picture, *, method, task, name, target=None):
        self.questions.append((picture, method, task, target, name))
        if not picture.startswith(b"\x89PNG"):
            raise ValueError(f"cannot decode image {name}: {HOSTILE} is no picture")
        names = {each["name"]: each["classes"] for each in NETWORK["tasks"]}[task]
        chosen = names[target or 0] if names else ""
        return {
            "tasks": [
                {"name": "kind", "result": HOSTILE, "note": "One of 3 classes.",
                 "rows": [row(0, 0, 0.7, True), row(0, 1, 0.2, False), row(0, 2, 0.1, False)]},
                {"name": "tags", "result": "red", "note": "",
                 "rows": [row(1, 0, 0.4, True, 0.25), row(1, 1, 0.3, False, 0.5)]},
                {"name": "weight", "result": "3.25", "note": "", "rows": []},
            ],
            "explained": {"task": task, "target": chosen, "text": f"{chosen} 70.0%",
                          "method": method, "reading": "red speaks for it"},
            "image": base64.b64encode(png((0, 0, 0))).decode(),
            "overlay": base64.b64encode(png(OVERLAY)).decode(),
        }  # fmt: skip


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with browser.open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def answer() -> Asked:
    return Asked()


@pytest.fixture(scope="module")
def server(serve, answer):
    return serve(NETWORK, answer)


@pytest.fixture
def asked(answer) -> Asked:
    answer.questions.clear()
    return answer


@pytest.fixture
def page(driver, server, asked):
    browser.resize(driver, 1100)
    appear(driver, "light")
    driver.get(server.url)
    until(lambda: text(driver, "name") == NETWORK["name"])
    return driver


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "photo & co.png"
    file.write_bytes(png((9, 9, 9)))
    return file


def until(condition) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def text(driver, name: str) -> str:
    return driver.find_element(By.ID, name).text


def choose(driver, file) -> None:
    """Chooses a file, and waits for the answer."""
    driver.find_element(By.ID, "file").send_keys(str(file))
    settled(driver)


def settled(driver) -> None:
    until(lambda: not text(driver, "status").startswith("Computing"))


def rows(driver) -> list:
    return driver.find_elements(By.CSS_SELECTOR, "#tasks button")


def pixel(driver, canvas: str) -> tuple[int, ...]:
    """Returns the colour in the middle of a canvas."""
    script = (
        "const c = document.getElementById(arguments[0]);"
        "return [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data]"
    )
    return tuple(driver.execute_script(script, canvas)[:3])


def appear(driver, scheme: str) -> None:
    """Lets the page appear as to a person who prefers light or dark."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_a_picture_that_is_chosen_is_told_and_explained(page, asked, photo):
    assert "kind (" in text(page, "tells") and "weight (a number)" in text(page, "tells")
    assert not page.find_element(By.ID, "answer").is_displayed()
    choose(page, photo)
    assert asked.questions == [(photo.read_bytes(), "grad_cam", "kind", None, photo.name)]
    assert text(page, "status") == ""
    found = [each.text.split("\n") for each in rows(page)]
    assert found == [
        [HOSTILE, "70.0%"], [LONG, "20.0%"], ["round", "10.0%"], ["red", "40.0%"],
        ["bright", "30.0%"],
    ]  # fmt: skip
    results = page.find_elements(By.CSS_SELECTOR, ".result")
    assert [each.text for each in results] == [HOSTILE, "red", "3.25"]
    lines = page.find_elements(By.CSS_SELECTOR, ".threshold")
    shares = [line.size["width"] / rows(page)[0].size["width"] for line in lines]
    assert shares == pytest.approx([0.25, 0.5], abs=0.02)
    assert pixel(page, "overlay") == OVERLAY and pixel(page, "image") == (0, 0, 0)
    canvas = page.find_element(By.ID, "overlay")
    assert (canvas.get_attribute("width"), canvas.get_attribute("height")) == ("40", "30")
    assert text(page, "reading") == f"grad_cam, {HOSTILE} 70.0%: red speaks for it."
    assert browser.complaints(page) == []


def test_names_are_text_and_never_run(page, photo):
    choose(page, photo)
    assert page.title == "runs/<b>a</b>: tl_jax demo"
    assert page.find_elements(By.CSS_SELECTOR, "img, b") == []
    options = page.find_elements(By.CSS_SELECTOR, "#target option")
    assert options[1].get_attribute("textContent") == HOSTILE
    assert browser.complaints(page) == []


def test_the_method_and_the_class_are_chosen(page, asked, photo):
    choose(page, photo)
    rows(page)[2].click()
    until(lambda: len(asked.questions) == 2)
    settled(page)
    pressed = [each.get_attribute("aria-pressed") for each in rows(page)]
    assert pressed == ["false", "false", "true", "false", "false"]
    page.find_element(By.CSS_SELECTOR, "#method option[value=occlusion]").click()
    until(lambda: len(asked.questions) == 3)
    page.find_element(By.CSS_SELECTOR, "#target option[value='1:']").click()
    until(lambda: len(asked.questions) == 4)
    page.find_element(By.CSS_SELECTOR, "#target option[value='2:']").click()
    until(lambda: len(asked.questions) == 5)
    settled(page)
    assert [question[1:4] for question in asked.questions[1:]] == [
        ("grad_cam", "kind", 2), ("occlusion", "kind", 2), ("occlusion", "tags", None),
        ("occlusion", "weight", None),
    ]  # fmt: skip
    assert {question[0] for question in asked.questions} == {photo.read_bytes()}
    assert browser.complaints(page) == []


DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (each) => each.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
const event = arguments[1] === "drop"
  ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
  : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
document.body.dispatchEvent(event);
return event.defaultPrevented;
"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_may_be_dropped_or_pasted(page, asked, way):
    picture = base64.b64encode(png((1, 2, 3))).decode()
    prevented = page.execute_script(DROP, picture, way)
    assert prevented == (way == "drop")  # Else the browser would leave the page for the file.
    until(lambda: asked.questions)
    settled(page)
    assert asked.questions[0][0] == png((1, 2, 3)) and asked.questions[0][4] == "dropped.png"
    assert len(rows(page)) == 5


def test_what_is_no_picture_is_said_and_the_next_is_answered(page, asked, photo, tmp_path):
    choose(page, photo)
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    choose(page, notes)
    assert text(page, "status") == f"cannot decode image notes.txt: {HOSTILE} is no picture"
    assert "wrong" in page.find_element(By.ID, "status").get_attribute("class")
    assert not page.find_element(By.ID, "answer").is_displayed()
    choose(page, photo)
    assert text(page, "status") == "" and len(rows(page)) == 5
    [complaint] = browser.complaints(page)
    assert "422" in complaint


def test_a_file_of_too_many_bytes_is_not_sent(page, asked, tmp_path):
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate((64 << 20) + 1)
    choose(page, large)
    assert "expected at most 64 MiB: make it smaller" in text(page, "status")
    assert asked.questions == []
    assert browser.complaints(page) == []  # And so refused by nobody.


def test_a_server_that_has_gone_is_said(page, asked, photo):
    page.execute_script("window.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    choose(page, photo)
    assert text(page, "status") == "The server does not answer; is the command still running?"


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_it_fits_every_width(page, photo, width):
    browser.resize(page, width)
    assert browser.overflow(page) == 0
    choose(page, photo)
    assert browser.overflow(page) == 0
    shown = page.find_elements(By.CSS_SELECTOR, "#answer *, #drop")
    rights = [each.rect["x"] + each.rect["width"] for each in shown]
    assert len(rights) > 20 and max(rights) <= width


COLOURS = """
const shown = [], ground = (element) => getComputedStyle(element).backgroundColor;
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!element.checkVisibility() || (!own && element.tagName !== "SELECT")) continue;
  let under = element;
  while (ground(under) === "rgba(0, 0, 0, 0)") under = under.parentElement;
  const fill = element.parentElement.querySelector(":scope > .fill");
  const colour = getComputedStyle(element).color;
  for (const each of fill ? [under, fill] : [under]) {
    shown.push([element.className || element.tagName, colour, ground(each)]);
  }
}
return shown;
"""


def luminance(colour: str) -> float:
    """Returns the relative luminance of a colour such as "rgb(1, 2, 3)" (WCAG 2)."""
    values = np.array(colour[colour.index("(") + 1 : -1].split(",")[:3], float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_the_light_and_in_the_dark(page, photo, scheme):
    appear(page, scheme)
    choose(page, photo)
    shown = page.execute_script(COLOURS)
    assert len(shown) > 20
    body = page.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    assert (luminance(body) < 0.05) == (scheme == "dark")
    for name, colour, ground in shown:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (name, colour, ground)


def test_nothing_comes_from_elsewhere(page, photo):
    choose(page, photo)
    names = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    origin = page.execute_script("return location.origin")
    requested = page.execute_script(names)
    assert len(requested) >= 4
    assert [name for name in requested if not name.startswith(f"{origin}/")] == []
