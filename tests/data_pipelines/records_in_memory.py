"""A source of records that lie in memory, for tests of what is made of them."""

from mmduplex_jax.clock import Clock


class Records:
    """Records as they are given, by number."""

    clock = Clock()

    def __init__(self, records):
        self.records = records
        self.longest_ticks = max(record.num_ticks for record in records)
        self.frame_px = records[0].frame_px

    def __len__(self):
        return len(self.records)

    def read(self, index, ticks=None):
        return self.records[index]

    def flip_safe(self, index):
        return True

    def key(self, index):
        return self.records[index].key
