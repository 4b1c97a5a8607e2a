# Scratch of one footprint while it is split, and the nouns of its tree.
from libc.stdint cimport int32_t, int64_t, uint8_t

from sextract.deblending._order cimport Sort
from sextract.deblending._shape cimport Facts, Pixels
from sextract.detection._lutz cimport Component, Label, Piece
from sextract.records cimport Run, Source

# A level with this many branches leaves the object whole, with FLAGS bit 64 (SExtractor's cap).
cdef enum:
    MAX_BRANCHES = 1024


cdef struct Level:
    # A run of pixels above the level's threshold; `node` is the branch of the level below that it lies in.
    int32_t y
    int32_t x0
    int32_t x1
    int32_t at
    int32_t node

cdef struct Blob:
    # A connected set of runs of one level, kept at its first run: union-find, sums.
    int32_t up
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

cdef struct Work:
    # Scratch of one footprint, and its tree.
    Pixels *raster          # its fragments, sorted by row and column
    int32_t *order          # list order: index into `raster`
    int32_t *row_start      # first fragment of each row
    float *filtered
    float *image
    int32_t *owner          # per pixel: source of a leaf ≥ 0, −1 nobody, −2−s given to source s
    Level *level
    Level *next_level
    Blob *blobs
    Node *nodes
    Piece *pieces
    Component *components
    Label *labels
    Run *runs
    Pixels *leaf            # fragments of all leaves, each in list order
    int64_t *leaf_start
    int64_t *leaf_stop
    Source *leaves
    double *amplitude
    double *chance
    Sort *sort
    float *heap
    uint8_t *scratch        # the caller's block: its size, what is used, and what would have been enough
    int64_t room
    int64_t used
    int64_t needed
    Facts facts
    int64_t nthresh
    double mincont
    int64_t npix
    int64_t nfragments
    int64_t npeaks
    int64_t max_nodes
    int64_t max_row_runs


cdef inline void *take_bytes(Work *w, int64_t nbytes) noexcept nogil:
    # A part of the scratch; the caller has checked that it is there.
    cdef void *p = w.scratch + w.used
    w.used += (nbytes + 15) // 16 * 16
    return p


cdef inline int64_t closing_key(int64_t level, int64_t y, int64_t x1) noexcept nogil:
    return (level << 57) | (y << 28) | x1


cdef inline int32_t find(Blob *blobs, int32_t j) noexcept nogil:
    while blobs[j].up != j:
        blobs[j].up = blobs[blobs[j].up].up
        j = blobs[j].up
    return j


cdef inline void unite(Blob *blobs, int32_t a, int32_t b) noexcept nogil:
    if a < b:
        blobs[b].up = a
    elif b < a:
        blobs[a].up = b
