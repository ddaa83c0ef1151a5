package file

// reserveMin is the shortest write in bytes for which a reservation pays.
const reserveMin = 64 << 10
