"""The order of the gallery's pages: as questions come up."""

ORDER = [
    "plot_quickstart.py",
    "plot_own_folder.py",
    "plot_search_by_words.py",
    "plot_tag_mistakes.py",
    "plot_noisy_tags.py",
    "plot_bits.py",
    "plot_grid_search.py",
    "plot_serving.py",
    "plot_finetuning.py",
    "plot_compare_methods.py",
    "plot_dask.py",
]


class Position:
    """Give an example's place; what has none comes last, by name."""

    def __init__(self, folder):
        self.folder = folder

    def __repr__(self):
        return "<Position>"

    def __call__(self, name):
        return (ORDER.index(name) if name in ORDER else len(ORDER), name)
