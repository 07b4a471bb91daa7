"""What is in the pictures: shapes, materials, people, and how much of an identity carries across modalities."""

import numpy as np
import pytest
from PIL import Image

from bdf_jax.data.world import person_strip, render, shapes
from bdf_jax.data.world.camera import Place
from bdf_jax.data.world.materials import LUMA, cloth, reflectance
from bdf_jax.data.world.person import draw_person
from bdf_jax.data.world.plan import make_plan, make_spec

VISIBLE, NIR, THERMAL = Place(1, "visible", 1, True), Place(3, "nir", 2, True), Place(2, "thermal", 1, False)


def test_coverage_sums_to_the_area_of_the_shape():
    size = (60, 50)
    tall, wide = np.array([10.0, 45.0]), np.array([6.0, 12.0])
    for patch, area in (
        (shapes.ellipse(size, (24.3, 30.1), (9.5, 14.2)), np.pi * 9.5 * 14.2),
        (shapes.box(size, (24.3, 30.1), (9.5, 14.2)), 4 * 9.5 * 14.2),
        (shapes.limb(size, (15.2, 12.1), (33.0, 40.0), (5, 5)), np.pi * 25 + 10 * np.hypot(17.8, 27.9)),
        (shapes.tube(size, tall, np.array([25.0, 25.0]), wide), 35 * 18),
    ):
        assert patch.cover_HW.sum() == pytest.approx(area, rel=0.02)
        assert np.abs(patch.side_HW).max() <= 1


def test_outside_the_picture_there_is_nothing():
    assert shapes.ellipse((20, 20), (-50, 5), (3, 3)) is None
    assert shapes.box((20, 20), (5, 90), (3, 3)) is None


@pytest.mark.parametrize("correlation", [0.0, 0.4, 1.0])
def test_near_infrared_reflectance_is_the_asked_share_of_luma(correlation):
    rng = np.random.default_rng(0)
    rgb_N3 = rng.uniform(size=(4000, 3))
    luma_N = rgb_N3 @ LUMA
    nir_N = np.array([reflectance(rgb, 0.5, correlation, rng)[3] for rgb in rgb_N3])
    slope = np.polyfit(luma_N, nir_N, 1)[0]
    assert slope == pytest.approx(correlation, abs=0.05)
    assert np.std(nir_N - correlation * luma_N) == pytest.approx((1 - correlation) * 0.5 / np.sqrt(2.2), abs=0.02)


def test_patterns_show_in_colour_in_the_infrared_or_in_both():
    rng = np.random.default_rng(1)
    fabrics = [cloth(0.5, 0.4, rng, patterned=1.0) for _ in range(400)]
    in_colour = np.array([abs(LUMA @ (fabric.over_C - fabric.base_C)[:3]) > 0.1 for fabric in fabrics])
    in_infrared = np.array([abs(fabric.over_C[3] - fabric.base_C[3]) > 0.1 for fabric in fabrics])
    for share in (in_colour & ~in_infrared, ~in_colour & in_infrared, in_colour & in_infrared):
        assert share.mean() > 0.1


def test_everyone_is_somebody_else_and_clothes_vary():
    people = [draw_person(0, pid, 0.4) for pid in range(1, 201)]
    assert {person.lower.kind for person in people} == {"trousers", "shorts", "skirt"}
    assert {person.bag.kind for person in people if person.bag} == {"backpack", "satchel", "handbag"}
    assert {person.gender for person in people} == {"female", "male"}
    assert len({person.hair.style for person in people}) == 7
    assert len({person.body.crotch for person in people}) == 200
    assert 0.2 < np.mean([person.outer is not None for person in people]) < 0.6


def test_a_picture_depends_on_identity_camera_number_and_seed():
    reference = render(0, 1, VISIBLE, 1)
    assert np.array_equal(reference, render(0, 1, VISIBLE, 1))
    for seed, pid, place, number in ((1, 1, VISIBLE, 1), (0, 2, VISIBLE, 1), (0, 1, VISIBLE, 2)):
        assert not np.array_equal(reference, render(seed, pid, place, number))
    assert reference.shape == (128, 64, 3)
    assert reference.dtype == np.uint8
    assert render(0, 1, NIR, 1, size=(288, 144)).shape == (288, 144)


def test_a_thermal_camera_sees_a_warm_person_before_a_cool_street():
    pictures = np.stack([render(0, pid, THERMAL, 1) for pid in range(1, 41)]).astype(float)
    person, beside = pictures[:, 16:100, 26:38].mean(), pictures[:, 16:100, [0, 1, 2, -3, -2, -1]].mean()
    assert person > 1.5 * beside
    head = np.array([picture[6:18, 26:38].max() for picture in pictures])
    assert np.median(head) > person, "skin is warmer than clothes"


def test_cameras_2_and_3_look_at_one_room():
    rooms = [
        np.mean([render(5, pid, place, 1, size=(64, 32)).mean(-1) for pid in range(1, 41)], 0)
        for place in (Place(2, "visible", 2, True), Place(4, "visible", 3, False))
    ]
    assert np.abs(rooms[0] - rooms[1]).mean() > 5


def test_a_strip_shows_one_person_in_all_cameras():
    strip = person_strip(0, 3, size=(64, 32))
    assert strip.shape == (64, 6 * 32, 3)
    infrared = strip[:, 2 * 32 : 3 * 32]
    assert np.array_equal(infrared[..., 0], infrared[..., 2])
    assert not np.array_equal(strip[:, :32, 0], strip[:, :32, 2])


def mean_average_precision(similarity_QG, query_pids, gallery_pids, ignored_QG):
    """By the definition, query by query."""
    precisions = []
    for i, similarity_G in enumerate(similarity_QG):
        ranked = [j for j in np.argsort(-similarity_G, kind="stable") if not ignored_QG[i, j]]
        hits = [rank for rank, j in enumerate(ranked, 1) if gallery_pids[j] == query_pids[i]]
        if hits:
            precisions.append(np.mean([number / rank for number, rank in enumerate(hits, 1)]))
    return 100 * np.mean(precisions)


def features(grey_NHW):
    """Raw pixels with and without their mean, and edge magnitudes, at 32 x 16, of unit length."""
    raw_ND = grey_NHW.reshape(-1, 32, 2, 16, 2).mean((2, 4)).reshape(len(grey_NHW), -1)
    dy_NHW, dx_NHW = np.gradient(grey_NHW, axis=(1, 2))
    edges_ND = np.hypot(dy_NHW, dx_NHW).reshape(-1, 32, 2, 16, 2).mean((2, 4)).reshape(len(grey_NHW), -1)
    named = {"raw": raw_ND, "raw without mean": raw_ND - raw_ND.mean(1, keepdims=True), "edges": edges_ND}
    return {name: x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True) for name, x_ND in named.items()}


@pytest.mark.parametrize(
    ("layout", "seed", "identities"),
    [("sysu_mm01", 0, 32), ("sysu_mm01", 1, 64), ("sysu_mm01", 2, 96), ("regdb", 3, 64), ("llcm", 4, 48)],
)
def test_raw_brightness_does_not_carry_over_and_edges_do(layout, seed, identities):
    """Infrared queries, visible gallery with one image a camera: raw grey pixels at most twice the chance mAP."""
    spec = make_spec(layout, 2, identities, seed=seed, images=1 if layout == "sysu_mm01" else 2)
    plan = make_plan(spec)
    test = {3 * (i + 1) for i in range(identities)} if layout != "regdb" else set(range(1, identities + 1))
    shots = [shot for shot in plan.shots if shot.pid in test]
    shots = [shot for shot in shots if shot.place.band != "visible" or layout == "regdb" or shot.number == 1]
    pictures = [render(seed, shot.pid, shot.place, shot.number, heading=shot.heading) for shot in shots]
    grey_NHW = np.stack([_small_grey(pixels) for pixels in pictures])
    pids, cams = np.array([shot.pid for shot in shots]), np.array([shot.place.number for shot in shots])
    visible = np.array([shot.place.band == "visible" for shot in shots])
    ignored_QG = np.zeros((np.sum(~visible), np.sum(visible)), bool)
    if layout == "sysu_mm01":
        ignored_QG = (cams[~visible] == 3)[:, None] & (cams[visible] == 2)
    if layout == "llcm":
        same_camera_QG = cams[~visible][:, None] == cams[visible]
        ignored_QG = same_camera_QG & (pids[~visible][:, None] == pids[visible])

    def score(similarity_QG):
        return mean_average_precision(similarity_QG, pids[~visible], pids[visible], ignored_QG)

    rng = np.random.default_rng(0)
    chance = np.mean([score(rng.uniform(size=ignored_QG.shape)) for _ in range(4)])
    found = {name: score(x_ND[~visible] @ x_ND[visible].T) for name, x_ND in features(grey_NHW).items()}
    assert found["raw"] <= 2 * chance
    assert found["raw without mean"] <= 2 * chance
    assert found["edges"] >= 1.25 * chance


def _small_grey(pixels):
    resized = Image.fromarray(pixels).convert("RGB").convert("L").resize((32, 64), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float64)
