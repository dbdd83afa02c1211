import lmc_fast


def test_public_names_exist():
    for name in lmc_fast.__all__:
        assert getattr(lmc_fast, name) is not None
