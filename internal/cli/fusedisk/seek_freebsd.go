package fusedisk

const seekHole = 4 // SEEK_HOLE
