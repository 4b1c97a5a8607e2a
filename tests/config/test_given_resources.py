"""What the user gave of limit and workers is told from what the machine stands in for."""

from pathlib import Path

import pytest

from sextract.config.resolve import Options, settings_from


@pytest.mark.parametrize(
    ("options", "text", "given"),
    [
        (Options(), "", set()),
        (Options(mem_limit="300M"), "", {"--mem-limit"}),
        (Options(workers=0), "", {"--workers"}),
        (Options(config="some.sex"), "MEM_LIMIT 300M\nWORKERS 2\n", {"MEM_LIMIT", "WORKERS"}),
    ],
)
def test_given(tmp_path: Path, options: Options, text: str, given: set[str]) -> None:
    (tmp_path / "some.sex").write_text(text)
    assert settings_from("image.fits", options, folder=tmp_path).resources.given == given
