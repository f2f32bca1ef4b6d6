"""Captions go to another image, if these fail."""

from hypothesis import given
from hypothesis import strategies as st

from system.data.formats.image_groups import ImageGroups


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "A", "ä", "a ", "a\0b", ""]), st.text())))
def test_groups_agree_with_a_plain_dictionary(rows: list[tuple[str, str]]) -> None:
    """File names that differ at all stay apart; rows and images keep the file's order."""
    expected: dict[str, list[tuple[str, dict[str, str]]]] = {}
    with ImageGroups() as groups:
        for number, (name, text) in enumerate(rows):
            groups.add(name, f"row {number}", {"caption": text})
            expected.setdefault(name, []).append((f"row {number}", {"caption": text}))
        found = list(groups)
    assert [group.number for group in found] == list(range(len(expected)))
    assert [(group.key, list(group.rows)) for group in found] == list(expected.items())


def test_an_id_is_one_images_in_a_split() -> None:
    with ImageGroups() as groups:
        assert groups.claim_id("train", "7", "a.png")
        assert groups.claim_id("train", "7", "a.png")
        assert groups.claim_id("test", "7", "b.png")
        assert not groups.claim_id("train", "7", "b.png")
        groups.forget_ids()
        assert groups.claim_id("train", "7", "b.png")
