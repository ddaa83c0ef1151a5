package fusedisk

const seekHole = 3 // SEEK_HOLE
