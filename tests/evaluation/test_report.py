from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifixer.evaluation.evaluate import HeldoutView, VariantQuality, evaluate
from artifixer.evaluation.report import MAX_BYTES, Report, ReportView, write_report
from artifixer.evaluation.report_scenes import ReportScene, ReportScenes
from artifixer.runtime.image_files import write_png
from artifixer.runtime.video_files import VideoWriter
from tests.viewer.browser import browser

SIZE = (64, 96)


def picture(seed: int, noise: float) -> np.ndarray:
    """A smooth scene with a given amount of noise."""
    height, width = SIZE
    rows, columns = np.mgrid[:height, :width]
    scene = np.stack(
        [rows / height, columns / width, 0.5 + 0.4 * np.sin(columns / 9 + seed)], axis=-1
    )
    scene = scene + noise * np.random.default_rng(seed).standard_normal(scene.shape)
    return (255 * scene.clip(0, 1)).astype(np.uint8)


def quality(noise: float) -> VariantQuality:
    opacity = np.full(SIZE, 255, np.uint8)
    opacity[:, :30] = 0
    return evaluate(
        HeldoutView(f"photo <{i}>.jpg", picture(i, 0), picture(i, noise), opacity) for i in range(4)
    )


@pytest.fixture
def report(tmp_path: Path) -> Report:
    views = []
    for i in range(4):
        files = {}
        for name, noise in (("photo", 0.0), ("3dgut", 0.2), ("artifixer", 0.05), ("opacity", 0.0)):
            files[name] = tmp_path / name / f"{i}.png"
            write_png(files[name], picture(i, noise))
        views.append(ReportView(f"photo <{i}>.jpg", files))
    with VideoWriter(tmp_path / "videos" / "artifixer.mp4", SIZE[1], SIZE[0], fps=12) as video:
        for i in range(5):
            video.add(picture(i, 0.0))
    return Report(
        title="A <capture> & its name",
        subtitle="6 photos, 4 held out",
        facts=[("camera scale", "0.31, from the median depth of the sparse points")],
        variants={"3dgut": quality(0.2), "artifixer": quality(0.05)},
        views=views,
        videos=[("ArtiFixer", tmp_path / "videos" / "artifixer.mp4")],
        frames=["photo <0>.jpg", None, "photo <1>.jpg"],
        splats=["splats/initial.ply"],
        settings={"seed": 0, "size": 96},
        notes=["masks are ignored"],
    )


def test_the_report_is_one_file_without_a_network_and_the_same_each_time(
    report: Report, tmp_path: Path
) -> None:
    write_report(tmp_path / "report.html", report)
    text = (tmp_path / "report.html").read_text()
    assert len(text) < MAX_BYTES
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources and all(
        source.startswith("data:") or source == "timing.json" for source in sources
    )
    assert "http" not in re.sub(r"data:[^\"]*", "", text)
    write_report(tmp_path / "again.html", report)
    assert (tmp_path / "again.html").read_text() == text


def test_names_from_outside_cannot_become_markup(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", report)
    text = (tmp_path / "report.html").read_text()
    assert "<capture>" not in text and "A &lt;capture&gt; &amp; its name" in text
    assert "<0>" not in text


def test_a_video_beyond_the_budget_is_linked(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifixer.evaluation.report.MAX_BYTES", 1_000_000)
    write_report(tmp_path / "report.html", report)
    assert 'src="videos/artifixer.mp4"' in (tmp_path / "report.html").read_text()


def test_fewer_views_when_pictures_are_large(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path / "all.html", report)
    monkeypatch.setattr("artifixer.evaluation.report.MAX_BYTES", 40_000)
    write_report(tmp_path / "few.html", report)
    count = {
        name: (tmp_path / name).read_text().count('"preferred"')
        for name in ("all.html", "few.html")
    }
    assert count["all.html"] == 4 and 0 < count["few.html"] < 4


def test_without_heldout_photos_the_report_says_so(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", replace(report, variants={}))
    assert "No photo was held out" in (tmp_path / "report.html").read_text()


def test_scenes_count_against_the_budget_of_videos_and_their_absence_is_told(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("artifixer.evaluation.report.MAX_BYTES", 1_500_000)
    write_report(tmp_path / "none.html", replace(report, scenes=ReportScenes(missing="no <viser>")))
    text = (tmp_path / "none.html").read_text()
    assert "no &lt;viser&gt;" in text and 'src="data:video/mp4' in text
    shown = ReportScene("A <fit>", "9 Gaussians", "A" * 500_000, picture(0, 0.0))
    scenes = ReportScenes("<script>@</script>", "@", (shown,))
    write_report(tmp_path / "report.html", replace(report, scenes=scenes))
    text = (tmp_path / "report.html").read_text()
    assert "A &lt;fit&gt;" in text and "<script>@" not in text
    assert 'src="videos/artifixer.mp4"' in text


def test_a_browser_moves_the_slider_and_changes_the_view(report: Report, tmp_path: Path) -> None:
    """A real browser opens the file; the divider follows the pointer, pictures the menus."""
    write_report(tmp_path / "report.html", report)
    (tmp_path / "timing.json").write_text("{}")
    with browser(tmp_path, (1000, 900)) as page:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.by import By

        driver = page.driver
        driver.get((tmp_path / "report.html").as_uri())
        compare = driver.find_element(By.ID, "compare")

        def divider() -> float:
            return float(
                driver.execute_script(
                    "return document.querySelector('#compare .bar').offsetLeft / "
                    "arguments[0].offsetWidth",
                    compare,
                )
            )

        assert divider() == pytest.approx(0.5, abs=0.02)
        slider = driver.find_element(By.ID, "slider")
        width = slider.size["width"]
        ActionChains(driver).move_to_element(slider).click_and_hold().move_by_offset(
            int(0.25 * width), 0
        ).release().perform()
        assert divider() == pytest.approx(0.75, abs=0.04)
        before = driver.find_element(By.ID, "right-picture").get_attribute("src")
        driver.find_elements(By.CSS_SELECTOR, "#strip button")[2].click()
        assert driver.find_element(By.ID, "right-picture").get_attribute("src") != before
        assert "photo <2>.jpg" in driver.find_element(By.ID, "view-title").text
        errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not errors


def test_a_long_note_is_not_wider_than_a_phone(report: Report, tmp_path: Path) -> None:
    """Notes name files without a space in them."""
    note = "fid not computed: no weights at $TORCH_HOME/hub/checkpoints/" + "inception_" * 8
    write_report(tmp_path / "report.html", replace(report, notes=[note]))
    (tmp_path / "timing.json").write_text("{}")
    with browser(tmp_path, (390, 844)) as page:
        page.driver.get((tmp_path / "report.html").as_uri())
        assert note in page.text()
        script = "return document.documentElement.scrollWidth <= innerWidth"
        assert page.driver.execute_script(script)


@pytest.mark.parametrize(("fill_noise", "sign"), [(0.02, "-"), (0.1, "+")])
def test_the_headline_says_how_the_result_compares_with_the_best_baseline(
    report: Report, tmp_path: Path, fill_noise: float, sign: str
) -> None:
    """A gain over the plain fit alone would hide a fill that is better than the result."""
    variants = {"3dgut": quality(0.2), "inpainting_telea": quality(0.15)}
    variants |= {"inpainting_push_pull": quality(fill_noise), "artifixer": quality(0.05)}
    write_report(tmp_path / "report.html", replace(report, variants=variants))
    tiles = re.findall(
        r'<div class="card tile"><b>(.*?)</b><span>(.*?)</span>',
        html.unescape((tmp_path / "report.html").read_text()),
    )
    assert tiles[0] == ("ArtiFixer", "best of the model's outputs by mean PSNR")
    for field, (value, label) in zip(("psnr", "psnr_pooled", "ssim"), tiles[1:], strict=True):
        ours, plain, fill = (
            getattr(variants[name], field)
            for name in ("artifixer", "3dgut", "inpainting_push_pull")
        )
        digits, unit = (3, "") if field == "ssim" else (2, " dB")
        assert value == f"{ours:.{digits}f}{unit}"
        assert f"{ours - plain:+.{digits}f}{unit} against the plain 3DGUT render" in label
        assert f"{ours - fill:+.{digits}f}{unit} against the best baseline" in label
        assert f"{ours - fill:+.{digits}f}".startswith(sign)
        assert "Inpainting (push-pull)" in label


def test_the_headline_names_the_plain_fit_where_it_is_the_best_baseline(
    report: Report, tmp_path: Path
) -> None:
    variants = {"3dgut": quality(0.02), "inpainting_telea": quality(0.15)}
    variants |= {"artifixer": quality(0.05)}
    write_report(tmp_path / "report.html", replace(report, variants=variants))
    text = (tmp_path / "report.html").read_text()
    change = variants["artifixer"].psnr - variants["3dgut"].psnr
    assert f"{change:+.2f} dB against the plain 3DGUT render, the best baseline" in text
