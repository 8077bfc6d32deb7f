"""The page in a real browser, opened from the disk."""

import json
import subprocess
import sys
import time

import pytest

from its_jax import gallery
from tests.helpers import finished_samples as finished
from tests.helpers.browser import reloaded
from tests.helpers.gallery import HOSTILE, SOUNDS, SUBJECTS, data, records


def until(page, condition, seconds=10):
    """Waits for a condition. Playwright's own waiting runs a script in the page, which the page's policy refuses."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def sound(page):
    return page.evaluate("(({currentTime, duration, paused}) => [currentTime, duration, paused])(audio)")


def shown(page):
    """Returns the ids of the tiles in the order of their positions."""
    return page.evaluate("""
        [...document.querySelectorAll(".tile")].map((tile) => [tile.getBoundingClientRect(), tile.dataset.sample])
            .sort(([a, i], [b, j]) => a.top - b.top || a.left - b.left)
            .map(([_, i]) => JSON.parse(document.getElementById("data").textContent).ids[i])""")


def details(page):
    rows = page.evaluate("[...document.querySelectorAll('#settings > *')].map((e) => e.textContent)")
    return dict(zip(rows[::2], rows[1::2], strict=True))


@pytest.mark.parametrize("embed", [False, True])
def test_sound_starts_where_the_spectrogram_is_clicked(opened, workdir, embed):
    page = opened(gallery.write(workdir, embed=embed))
    page.evaluate("audio.defaultPlaybackRate = 0.1")
    picture = page.locator(".tile .sound").nth(3)
    box = picture.bounding_box()
    picture.click(position={"x": 0.6 * box["width"], "y": 5})
    until(page, "!audio.paused && audio.currentTime > 0.6")
    at, duration, _ = sound(page)
    assert duration == pytest.approx(1, abs=0.01) and 0.59 <= at < 0.8
    for head in (page.locator("#picture .head"), page.locator(".tile .head").nth(3)):
        place = head.evaluate("(e) => (e.offsetLeft + 1) / e.parentElement.clientWidth")
        assert place == pytest.approx(at, abs=0.1) and head.is_visible()
    seen = page.evaluate(
        "[...document.querySelectorAll('img')].filter((i) => i.getAttribute('src')).map((i) => i.naturalWidth)"
    )
    assert len(seen) >= 18 and set(seen) == {48}
    big = page.locator("#picture").bounding_box()
    page.mouse.click(big["x"] + 0.25 * big["width"], big["y"] + 20)
    until(page, "!audio.paused && audio.currentTime < 0.5")
    assert sound(page)[0] == pytest.approx(0.25, abs=0.1)


def test_axes_show_seconds_and_mel_frequencies(opened, folders):
    page = opened(gallery.write(folders))
    ticks = page.evaluate(
        "[...document.querySelectorAll('#hz span')].map((e) => [e.textContent, parseFloat(e.style.bottom)])"
    )
    assert [label for label, _ in ticks] == ["0 Hz", "500 Hz", "1 kHz", "2 kHz", "4 kHz", "8 kHz"]
    from its_jax.audio import mel

    bands = 128
    edges = mel.mel_edges(mel.MelConfig(n_mels=bands))
    for hertz, (_, place) in zip((500, 1000, 2000, 4000), ticks[1:], strict=False):
        nearest = abs(edges[1:-1] - hertz).argmin()
        assert place == pytest.approx(100 * (nearest + 0.5) / bands, abs=1)
    seconds = page.evaluate(
        "[...document.querySelectorAll('#seconds span')].map((e) => [e.textContent, parseFloat(e.style.left)])"
    )
    assert seconds[0] == ["0 s", 0] and seconds[-1] == ["1", 100] and ["0.4", 40] in seconds


def test_the_keyboard_plays_selects_and_stars(opened, folders):
    page = opened(gallery.write(folders))
    first = details(page)["id"]
    page.keyboard.press("s")
    page.keyboard.press("ArrowRight")
    second = details(page)["id"]
    assert [first, second] == shown(page)[:2]
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert details(page)["id"] == second
    page.evaluate("audio.defaultPlaybackRate = 0.1")
    page.keyboard.press("Space")
    until(page, "!audio.paused && audio.currentTime > 0.01")
    page.keyboard.press("Space")
    until(page, "audio.paused")
    at = sound(page)[0]
    page.keyboard.press("Space")
    until(page, "!audio.paused")
    assert sound(page)[0] >= at > 0
    page.keyboard.press("ArrowLeft")  # The next one plays from its beginning.
    until(page, "!audio.paused && decodeURIComponent(audio.src).includes(" + json.dumps(first) + ")")
    assert page.locator(".tile[aria-selected=true]").get_attribute("aria-label").endswith("starred")
    page.locator("#search").focus()
    page.keyboard.type("s s")
    assert page.locator("#search").input_value() == "s s"


def test_samples_are_sorted_by_scores_and_settings(opened, folders):
    page = opened(gallery.write(folders))
    ids = [record["id"] for record in records()]
    page.select_option("#sort", "score:good")
    assert shown(page) == ids  # The best comes first.
    page.click("#direction")
    assert shown(page) == ids[::-1]
    page.select_option("#sort", "seed")
    seeds = [int(sample.split("_")[-2]) for sample in shown(page)]
    assert seeds == [9] * 8 + [10] * 8


def test_samples_are_filtered_by_words_and_settings(opened, folders):
    page = opened(gallery.write(folders))
    page.fill("#search", "CASTLE bell")
    assert len(shown(page)) == 4 and all(sample.startswith("a-castle_bell") for sample in shown(page))
    page.click("#more")
    page.select_option('[data-setting="seed"]', label="9")
    page.select_option('[data-setting="image.weight"]', label="0.6")
    (sample,) = shown(page)
    assert page.locator("#count").text_content() == "1 of 16 samples"
    assert details(page) | {"seed": "9", "image.weight": "0.6", "id": sample} == details(page)
    page.fill("#search", "nothing of the kind")
    assert page.locator("#nothing").is_visible() and not shown(page)
    page.click("#clear2")
    assert len(shown(page)) == 16


def boxes(page, selector, label):
    """Returns label, x and y of elements."""
    place = f"(e) => [e.{label}, e.getBoundingClientRect().x, e.getBoundingClientRect().y]"
    return page.evaluate(f"[...document.querySelectorAll({json.dumps(selector)})].map({place})")


def test_a_table_of_two_settings_shows_samples_in_their_cells(opened, folders):
    page = opened(gallery.write(folders))
    page.click("#more")
    page.select_option("#x", "audio.prompt")
    page.select_option("#y", "image.prompt")
    places = {label: (x, y) for label, x, y in boxes(page, "#columns span, #rows span", "textContent")}
    assert {*SUBJECTS, *SOUNDS} <= set(places)
    cells = boxes(page, ".tile", "ariaLabel")
    assert len(cells) == 16
    assert max(places[sound][1] for sound in SOUNDS) + 20 < min(y for _, _, y in cells)
    for label, x, y in cells:
        (subject,) = (subject for subject in SUBJECTS if subject in label)
        assert max((s for s in SOUNDS if places[s][0] <= x + 8), key=lambda s: places[s][0]) in label
        assert max((s for s in SUBJECTS if places[s][1] <= y + 8), key=lambda s: places[s][1]) == subject
    before = details(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert details(page) != before


def test_prompts_are_shown_as_text_and_not_interpreted(opened, workdir):
    for embed in (False, True):
        page = opened(gallery.write(workdir, embed=embed))
        page.fill("#search", "onerror")
        assert len(shown(page)) == 8
        assert details(page)["audio.prompt"] == HOSTILE and HOSTILE in page.locator(".tile p").all_text_contents()
        page.click("#more")
        page.select_option("#x", "audio.prompt")
        assert page.evaluate("window.hacked") is None


def test_stars_are_kept_and_exported(opened, folders):
    path = gallery.write(folders)
    page = opened(path)
    ids = shown(page)
    page.locator(".tile").nth(2).hover()
    page.locator(".tile b").nth(2).click()
    page.locator(".tile").nth(5).click(position={"x": 30, "y": 150})
    page.click("#star")
    again = opened(path, context=page.context)
    again.click("#starred")
    assert shown(again) == [ids[2], ids[5]]
    again.click("#export")
    assert again.locator("#text").input_value() == f"{ids[2]}\n{ids[5]}\n"
    with again.expect_download() as download:
        again.click("#download")
    assert open(download.value.path()).read() == f"{ids[2]}\n{ids[5]}\n"
    again.select_option("#form", "again")
    assert arguments(again)[-2:] == [f"--from={folders}/{ids[5]}/spectrogram.png", "--workdir=again"]
    again.select_option("#form", "videos")
    assert arguments(again) == ["python", "-m", "its_jax.video", f"{folders}/{ids[5]}"]
    again.click("#close")
    again.keyboard.press("s")
    reloaded(page, written_by=again)
    page.click("#starred")
    assert len(shown(page)) == 1


def arguments(page):
    """Returns the arguments of the last exported command as a shell parses them."""
    command = page.locator("#text").input_value().splitlines()[-1].removeprefix("python")
    program = "import sys; print(*sys.argv[1:], sep='\\n')"
    done = subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "$0" python {command}', program], capture_output=True, text=True
    )
    return done.stdout.splitlines()


def test_a_frame_without_storage_warns_that_it_keeps_no_stars(opened, folders, tmp_path):
    gallery.write(folders, embed=True)
    inner = (folders / gallery.EMBEDDED).read_text().replace("&", "&amp;").replace('"', "&quot;")
    outer = tmp_path / "outer.html"
    outer.write_text(f'<iframe sandbox="allow-scripts" width=1200 height=800 srcdoc="{inner}"></iframe>')
    frame = opened(outer).frame_locator("iframe")
    frame.locator(".tile").first.wait_for()
    assert "keeps no stars" in frame.locator("#notice").text_content()
    frame.locator("#star").click()
    assert frame.locator("#star").get_attribute("aria-pressed") == "true"


# Runs before the page's own script and records when tiles are on the screen.
CLOCK = """
    (function look() {
        if (document.querySelector(".tile")) requestAnimationFrame(() => { window.painted = performance.now(); });
        else requestAnimationFrame(look);
    })()"""


def test_ten_thousand_samples_appear_within_a_second(browser, opened, tmp_path):
    (sample,) = finished.write(tmp_path, [finished.record()])
    path = gallery.write(tmp_path)
    with_many(path, sample, 10_000)
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_init_script(CLOCK)
    page = opened(path, context=context)
    times = []
    for _ in range(3):  # The machine may be busy.
        until(page, "window.painted")
        times.append(page.evaluate("window.painted"))
        page.reload()
    assert min(times) < 1000  # milliseconds
    assert page.locator("#count").text_content() == "10000 samples"
    page.select_option("#sort", "score:good")
    assert details(page)["seed"] == "9999" and shown(page)[0].endswith("000000270f")
    page.evaluate("list.scrollTop = list.scrollHeight")
    until(page, """[...document.querySelectorAll(".tile")].some((tile) => tile.ariaPosInSet === "10000")""")
    assert page.locator(".tile").count() < 100
    client = context.new_cdp_session(page)
    client.send("HeapProfiler.collectGarbage")
    assert client.send("Runtime.getHeapUsage")["usedSize"] < 20 * 2**20  # bytes


def with_many(path, sample, count):
    """Turns the page of one sample into a page of many with other seeds and scores, which share its files."""
    page_data, seeds = data(path), list(range(count))
    page_data["ids"] = [f"{sample[:-10]}{seed:010x}" for seed in seeds]
    del page_data["common"]["seed"]
    page_data["columns"] = {"seed": {"values": seeds, "index": seeds}}
    page_data["scores"] = {"good": [seed / count for seed in seeds]}
    for key in ("canvas", "pictures", "colors", "folders"):
        page_data[key]["index"] = [0] * count
    page = path.read_text()
    path.write_text(
        page.replace(json.dumps(data(path), separators=(",", ":")), json.dumps(page_data, separators=(",", ":")))
    )
    for other in (*page_data["ids"][:100], *page_data["ids"][-100:]):
        if other != sample:
            (path.parent / other).symlink_to(sample)
