"""Joins the runs of all tiles, row after row, to footprints (8-connected), in the order in which they close.

Memory is the caller's: blocks of bytes for pieces, components and the two rows of labels.  It sees no pixel.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from sextract.detection._lutz cimport (
    Component,
    Label,
    Lutz,
    Piece,
    lutz_add_pieces,
    lutz_append,
    lutz_component,
    lutz_drop,
    lutz_init,
    lutz_piece,
    lutz_row,
)
from sextract.records cimport Footprint, Fragment, Run

PIECE_BYTES = sizeof(Piece)
COMPONENT_BYTES = sizeof(Component)
LABEL_BYTES = sizeof(Label)

# Numbers that a run of the row above has in a checkpoint: where it is, and, if it is the first of its component, that one.
SAVED = 12


def join_tiles(list starts, list runs, int64_t rows, int32_t[::1] out_start, Run[::1] out):
    """Concatenate the runs of tiles side by side, joining what meets at their borders.

    Parameters
    ----------
    starts, runs : list of int32 arrays (rows + 1,), list of RUN arrays
        One of each per tile, left to right.
    out_start, out : int32 array (rows + 1,), RUN array
        Written; `out` has room for all runs.
    """
    cdef int64_t y, t, ntiles = len(runs), n = 0, k
    cdef int32_t[::1] start
    cdef Run[::1] these
    out_start[0] = 0
    for y in range(rows):
        for t in range(ntiles):
            start = starts[t]
            these = runs[t]
            for k in range(start[y], start[y + 1]):
                if n > out_start[y] and out[n - 1].x1 == these[k].x0:
                    out[n - 1].x1 = these[k].x1
                else:
                    out[n] = these[k]
                    n += 1
        out_start[y + 1] = <int32_t>n


@cython.final
cdef class Components:
    """Open components and the queue of closed ones.

    Parameters
    ----------
    pieces, components, labels : uint8 arrays
        Storage, to begin with; sizes in units of PIECE_BYTES, COMPONENT_BYTES, and twice the most runs a row can have of LABEL_BYTES.
    minarea : int
        DETECT_MINAREA: components with fewer pixels are dropped when they close.
    """

    cdef Lutz state
    cdef object _pieces, _components, _labels
    cdef readonly int32_t npieces, ncomponents
    cdef public int64_t parents
    # Where `drain` is: footprints that are whole, and the next piece of the one that isn't.
    cdef int64_t drained
    cdef int32_t piece
    # Where a checkpoint is: components numbered, the run whose component's pieces come, and how many it still gets.
    cdef int32_t named, label, left

    def __init__(self, uint8_t[::1] pieces, uint8_t[::1] components, uint8_t[::1] labels, int32_t minarea):
        self.ncomponents = <int32_t>(components.shape[0] // sizeof(Component))
        self._pieces, self._components, self._labels = [], components, labels
        self.state.components = <Component *>&components[0]
        self.state.above = <Label *>&labels[0]
        self.state.here = self.state.above + labels.shape[0] // sizeof(Label) // 2
        lutz_init(&self.state, minarea)
        self.state.ncomponents_free = self.ncomponents
        self.npieces = 0
        self.add_pieces(pieces)
        self.parents = 0
        self.named = self.label = self.left = 0

    @property
    def waiting(self):
        """Closed components, their pieces and their pixels."""
        return self.state.nclosed, self.state.closed_pieces, self.state.closed_npix

    @property
    def first_closed_row(self):
        """Line on which the oldest closed component closed; −1 if there is none."""
        return self.state.components[self.state.closed].ymax + 1 if self.state.nclosed else -1

    @property
    def free(self):
        """Free pieces and free components."""
        return self.state.npieces_free, self.state.ncomponents_free

    def feed(
        self, const int32_t[::1] row_start, const Run[::1] runs, int64_t y0, int64_t first, int64_t most=1 << 62
    ):
        """Take rows `first` … of a band whose first row is `y0`; the number of rows taken in all.

        A call ends with the row that makes `most` runs.  No row is taken if there is too little room for it: drain, or add some,
        and call again.
        """
        cdef int64_t y = first, rows = row_start.shape[0] - 1
        cdef const Run *row
        cdef Run none
        with nogil:
            while y < rows and row_start[y] - row_start[first] < most:
                row = &runs[row_start[y]] if row_start[y + 1] > row_start[y] else &none
                if not lutz_row(&self.state, <int32_t>(y0 + y), row, row_start[y + 1] - row_start[y]):
                    break
                y += 1
        return y

    def finish(self, int64_t y):
        """Close everything: `y` is the height of the frame."""
        cdef Run none
        lutz_row(&self.state, <int32_t>y, &none, 0)

    def add_pieces(self, uint8_t[::1] block):
        """Use another block for pieces, beside those there are."""
        cdef int32_t n = <int32_t>(block.shape[0] // sizeof(Piece))
        if not lutz_add_pieces(&self.state, <Piece *>&block[0], n):
            raise OverflowError("too many blocks of pieces")
        self._pieces.append(block)
        self.npieces += n

    def move_components(self, uint8_t[::1] components):
        """Move to larger storage."""
        cdef int32_t n = <int32_t>(components.shape[0] // sizeof(Component))
        memcpy(&components[0], self.state.components, self.ncomponents * sizeof(Component))
        self.state.components = <Component *>&components[0]
        self.state.ncomponents_free += n - self.ncomponents
        self.ncomponents = n
        self._components = components

    def next_closed(self, int64_t most_pixels, int64_t most, int64_t most_pieces):
        """How many of the oldest closed components stay within these sums (at least one, if any); their pieces, pixels."""
        cdef int32_t c = self.state.closed
        cdef int64_t n = 0, pieces = 0, pixels = 0
        cdef Component *comp
        while c >= 0:
            comp = &self.state.components[c]
            if n and (n == most or pixels + comp.npix > most_pixels or pieces + comp.npieces > most_pieces):
                break
            n += 1
            pieces += comp.npieces
            pixels += comp.npix
            c = comp.next
        return n, pieces, pixels

    def drain(
        self, Footprint[::1] out, Fragment[::1] fragments, int64_t done=0, int64_t most=1 << 62, int64_t jumps=1 << 62
    ):
        """Move the oldest ``len(out)`` closed components out, some fragments at a time; how many have been written.

        Call it again with what it returned until all are.  A call ends after `most` fragments, or when the list has jumped
        that often to another 64 KiB of pieces, which is what the kernel maps at a time.
        """
        cdef uint64_t window, last = 0
        cdef int64_t n = done, upto = min(done + most, fragments.shape[0])
        cdef int32_t c
        cdef Component *comp
        cdef Piece *one
        if done == 0:
            self.drained = 0
            self.piece = -1
        while self.drained < out.shape[0]:
            c = self.state.closed
            comp = &self.state.components[c]
            if self.piece < 0:
                self.parents += 1
                self._describe(comp, &out[self.drained], n)
                self.piece = comp.head
            while self.piece >= 0 and n < upto:
                one = lutz_piece(&self.state, self.piece)
                window = <uint64_t>one >> 16
                if window != last:
                    last = window
                    jumps -= 1
                    if jumps < 0:
                        return n
                fragments[n].y = one.y
                fragments[n].x0 = one.x0
                fragments[n].x1 = one.x1
                n += 1
                self.piece = one.next
            if self.piece >= 0:
                return n
            self.state.closed = comp.next
            self.state.nclosed -= 1
            self.state.closed_pieces -= comp.npieces
            self.state.closed_npix -= comp.npix
            lutz_drop(&self.state, c)
            self.drained += 1
        return n

    # A checkpoint: all components are open then.  What it holds knows no slots, so it fits storage of any size.

    @property
    def runs_above(self):
        """Runs of the last row that was taken in."""
        return self.state.nabove

    def save(self, int64_t[:, ::1] out, int64_t first):
        """Describe runs `first` … of the row above and their components, as many as `out` (n, SAVED) has room for; how many."""
        cdef int64_t k, n = min(out.shape[0], self.state.nabove - first)
        cdef Label *one
        cdef Component *comp
        if first == 0:
            self.named = 0
        for k in range(n):
            one = &self.state.above[first + k]
            comp = &self.state.components[one.component]
            if one.first:
                comp.next = self.named
                self.named += 1
            out[k, 0], out[k, 1], out[k, 2], out[k, 3] = one.x0, one.x1, comp.next, one.first
            out[k, 4], out[k, 5], out[k, 6], out[k, 7] = comp.npix, comp.npieces, comp.xmin, comp.xmax
            out[k, 8], out[k, 9], out[k, 10], out[k, 11] = comp.ymin, comp.ymax, comp.seen, comp.last_x1
        return n

    def save_pieces(self, Fragment[::1] out, bint begin, int64_t jumps=1 << 62):
        """The pieces of open components, one after the other in the order of their first runs; 0 when all are out.

        A call may end earlier for `jumps`, as `drain` does, but never with 0.
        """
        cdef int64_t n = 0
        cdef uint64_t window, last = 0
        cdef Piece *one
        if begin:
            self.label = self.piece = -1
        while n < out.shape[0]:
            if self.piece < 0:
                self.label = self._first_of_component(self.label + 1)
                if self.label >= self.state.nabove:
                    break
                self.piece = self.state.components[self.state.above[self.label].component].head
            one = lutz_piece(&self.state, self.piece)
            window = <uint64_t>one >> 16
            if window != last:
                last = window
                jumps -= 1
                if jumps < 0 and n > 0:
                    break
            out[n].y, out[n].x0, out[n].x1 = one.y, one.x0, one.x1
            n += 1
            self.piece = one.next
        return n

    cdef int32_t _first_of_component(self, int32_t k) noexcept nogil:
        # The next run that is the first of its component.
        while k < self.state.nabove and not self.state.above[k].first:
            k += 1
        return min(k, self.state.nabove)

    def restore(self, const int64_t[:, ::1] saved):
        """Take the next runs of the row above, in storage that nothing was fed to and has room for their components."""
        cdef int64_t k
        cdef int32_t c
        cdef Label *one
        cdef Component *comp
        for k in range(saved.shape[0]):
            one = &self.state.above[self.state.nabove]
            one.x0, one.x1, one.first = <int32_t>saved[k, 0], <int32_t>saved[k, 1], <int32_t>saved[k, 3]
            one.component = <int32_t>saved[k, 2]
            self.state.nabove += 1
            if not one.first:
                continue
            # Fresh storage gives them in the order in which they were numbered.
            c = lutz_component(&self.state)
            comp = &self.state.components[c]
            comp.npix, comp.npieces = saved[k, 4], <int32_t>saved[k, 5]
            comp.xmin, comp.xmax = <int32_t>saved[k, 6], <int32_t>saved[k, 7]
            comp.ymin, comp.ymax = <int32_t>saved[k, 8], <int32_t>saved[k, 9]
            comp.seen, comp.last_x1 = <int32_t>saved[k, 10], <int32_t>saved[k, 11]
            comp.head = comp.tail = -1
            comp.up = c
            comp.mark = comp.seen
        self.label, self.left = -1, 0

    def restore_pieces(self, const Fragment[::1] fragments):
        """Take the next pieces, when `restore` has all runs; there must be room for them."""
        cdef int64_t k
        cdef int32_t c
        for k in range(fragments.shape[0]):
            if self.left == 0:
                self.label = self._first_of_component(self.label + 1)
                c = self.state.above[self.label].component
                self.left = self.state.components[c].npieces
                self.state.components[c].npieces = 0
            c = self.state.above[self.label].component
            lutz_append(&self.state, c, fragments[k].y, fragments[k].x0, fragments[k].x1)
            self.left -= 1

    cdef void _describe(self, const Component *comp, Footprint *out, int64_t first) noexcept nogil:
        out.parent = self.parents
        out.npix = comp.npix
        out.fragments = first
        out.nfragments = comp.npieces
        out.row = comp.ymax + 1
        out.xmin = comp.xmin
        out.xmax = comp.xmax
        out.ymin = comp.ymin
        out.ymax = comp.ymax
