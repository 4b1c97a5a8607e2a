# Scratch of one footprint while it is split, and the nouns of its tree.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t

from sextract.deblending._shape cimport Facts, Pixels
from sextract.detection._lutz cimport Component, Label, Piece
from sextract.records cimport Fragment, Run

cdef enum:
    # A level with this many branches leaves the object whole, with FLAGS bit 64 (SExtractor's cap).
    MAX_BRANCHES = 1024
    # More sources than `owner` can tell from each other: the same.
    MAX_LEAVES = 32767
    # Entries of a list that are looked up together.
    CHUNK = 1024


cdef struct Level:
    # A run of pixels above the level's threshold; `node` is the branch of the level below that it lies in.
    int32_t y
    int32_t x0
    int32_t x1
    int32_t at
    int32_t node

cdef struct Branch:
    # A connected set of runs of one level.
    int32_t npix
    int32_t last        # its last run: the order of closing
    int32_t node
    double flux

cdef struct Node:
    int32_t parent
    int32_t level
    int32_t npix
    int32_t last_y      # its last run, by which it is found again
    int32_t last_x1
    int32_t ok          # not split further up
    int32_t chosen      # which source it became, -1
    double flux

cdef struct Leaf:
    # A chosen node: its pixels, its shape at its own level, and how many fragments it will have.
    double x
    double y
    double amplitude
    float cxx
    float cyy
    float cxy
    float abcor
    float threshold
    float reach_x       # beyond them it gets no pixel
    float reach_y
    int32_t flags
    int32_t head        # its pieces, in list order
    int32_t npieces
    int64_t count
    int64_t start

cdef struct Sort:
    int64_t key
    int32_t index
    int32_t value

cdef struct Work:
    # Scratch of one footprint, and its tree.
    const Fragment *list    # its fragments in list order
    Pixels *raster          # the same, sorted by row and column
    int32_t *row_start      # first fragment of each row
    int32_t ymin
    float *filtered
    float *image
    uint16_t *owner         # per pixel: 2s + 1 of leaf s, 2s + 2 given to it, 0 nobody's
    Pixels *chunk           # entries of a list with the places of their values
    float *heap
    Level *level
    int32_t *up             # union-find over the runs of a level
    Branch *branches
    Node *nodes
    Sort *sort
    Leaf *leaves
    double *chance
    Piece *pieces
    Component *components
    Label *labels
    Run *runs
    uint8_t *scratch        # the caller's block: its size, what is used, and what would have been enough
    int64_t room
    int64_t used
    int64_t needed
    int64_t most            # what a footprint may use
    Facts facts
    int64_t nthresh
    double mincont
    int64_t npix
    int64_t nfragments
    int64_t npeaks          # runs that all levels can have together without one lying in another, and on one row
    int64_t row_peaks
    int64_t max_nodes
    int64_t nnodes


cdef inline int64_t fixed_bytes(int64_t width, int64_t height, int64_t nthresh, int64_t minarea) noexcept nogil:
    # Scratch that doesn't depend on pixels: the nodes of the tree, rows, a portion of a list.
    cdef int64_t rows = 4 * (height + 4) + 8 * width
    cdef int64_t levels = max(nthresh, <int64_t>1) * (MAX_BRANCHES + 1) * <int64_t>sizeof(Node)
    cdef int64_t branches = (MAX_BRANCHES + 1) * <int64_t>(sizeof(Branch) + sizeof(Sort))
    return rows + levels + branches + CHUNK * <int64_t>sizeof(Pixels) + 4 * minarea + 1024


cdef inline void *take_bytes(Work *w, int64_t nbytes) noexcept nogil:
    # A part of the scratch; the caller has checked that it is there.
    cdef void *p = w.scratch + w.used
    w.used += (nbytes + 15) // 16 * 16
    return p


cdef inline bint lacks(Work *w, int64_t nbytes) noexcept nogil:
    # Whether so much more scratch isn't there; notes what is needed.
    if w.used + nbytes <= w.room:
        return False
    w.needed = w.used + nbytes
    return True


cdef inline void sift(Sort *s, int64_t j, int64_t n) noexcept nogil:
    cdef int64_t c
    cdef Sort t = s[j]
    while 2 * j + 1 < n:
        c = 2 * j + 1
        if c + 1 < n and s[c + 1].key > s[c].key:
            c += 1
        if not s[c].key > t.key:
            break
        s[j] = s[c]
        j = c
    s[j] = t


cdef inline void sort_keys(Sort *s, int64_t n) noexcept nogil:
    # By key, all of which differ, in place: the C library's qsort takes as much again from the heap.
    cdef int64_t i
    cdef Sort t
    for i in range(n // 2 - 1, -1, -1):
        sift(s, i, n)
    for i in range(n - 1, 0, -1):
        t = s[0]
        s[0] = s[i]
        s[i] = t
        sift(s, 0, i)


cdef inline int64_t closing_key(int64_t level, int64_t y, int64_t x1) noexcept nogil:
    return (level << 57) | (y << 28) | x1
