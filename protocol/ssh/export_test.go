package ssh

// ParseEncrypted lets tests decide how long the decryption of a key takes.
var ParseEncrypted = &parseEncrypted
