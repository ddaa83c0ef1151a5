package words

import "sync"

// qemu holds QEMU's template for one of ours, with the same arguments; what is missing
// gets a capital letter. Errors are %v; %+s is a string with a capital. A test in
// test/arch checks that each key is a template of ours.
var qemu = sync.OnceValue(func() map[string]string {
	return map[string]string{
		"key file contains key “%s” which has a value that cannot be interpreted": "Key file contains key “%s” which has a value that cannot be interpreted.",
		"%s offset invalid": "%+s offset invalid",
		"%s too large":      "%+s too large",
		"%s: %#x (L2 offset: %#x, L2 index: %#x)":                                            "%+s: %#x (L2 offset: %#x, L2 index: %#x)",
		"ASN1 parser: Error in TAG":                                                          "ASN1 parser: Error in TAG.",
		"Base64 decoding error":                                                              "Base64 decoding error.",
		"Base64 unexpected header error":                                                     "Base64 unexpected header error.",
		"PBKDF iterations %.0f larger than %d: numerical result out of range":                "PBKDF iterations %.0f larger than %d: Numerical result out of range",
		"PBKDF iterations %.0f too large to scale: numerical result out of range":            "PBKDF iterations %.0f too large to scale: Numerical result out of range",
		"aio=native was specified, but it requires cache.direct=on, which was not specified": "aio=native was specified, but it requires cache.direct=on, which was not specified.",
		"backing file '%s' creates an infinite loop":                                         "Backing file '%s' creates an infinite loop.",
		"backing file specified without backing format: it was detected as %s":               "Backing file specified without backing format\nDetected format of %s.",
		"can't store persistent bitmaps to %s: operation not supported":                      "Can't store persistent bitmaps to %s: Operation not supported",
		"the backing file cannot be amended: rebase the image":                               "Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.",
		"could not assign backing file '%s' with format '%s': invalid argument":              "Could not assign backing file '%s' with format '%s': Invalid argument",
		"could not assign backing file '%s' with format '%s': no space left on device":       "Could not assign backing file '%s' with format '%s': No space left on device",
		"failed to log in to target: %s (status %d)":                                         "Failed to log in to target. Status: %+s(%d)",
		"iSCSI: failed to connect to LUN : %v":                                               "iSCSI: Failed to connect to LUN : %v",
		"sense key %s(%d), %s(0x%04x)":                                                       "SENSE KEY:%s(%d) ASCQ:%s(0x%04x)",
		"an image is too large: the maximum image size is %dGB":                              "An image is too large. The maximum image size is %dGB",
		"cannot get vdi info, %s, %s %d %s":                                                  "cannot get vdi info, %+s, %s %d %s",
		"invalid object_size: it is a power of 2 from 2^%d to 2^%d":                          "Invalid object_size. obect_size needs to be power of 2 and be limited from 2^%d to 2^%d",
		"iSCSI: the target returned an invalid block size of %d":                             "iSCSI: the target returned an invalid block size of %d.",
		"the SFTP server answers: %s (sftp error code: %d)":                                  "SFTP server: %+s (libssh error code: 1, sftp error code: %d)",
		"failed to open file: %v":                                                            "Failed to open file : %v",
		"looking '%s' up: %s (%d)":                                                           "open call failed with \"NFS: Lookup of /%s failed with %s(%d)\"",
		"the directory cannot be mounted: %s (%d): %v (%d)":                                  "mount_cb: RPC error: Mount failed with error %s(%d) %v(%d)",
		"error opening file: %v":                                                             "CURL: Error opening file: %v",
		"could not open '%s': no such file or directory":                                     "Could not open '%s': No such file or directory",
		"could not read bitmap '%s' from image: invalid argument":                            "Could not read bitmap '%s' from image: Invalid argument",
		"could not read bitmap_table table from image for bitmap '%s': invalid argument":     "Could not read bitmap_table table from image for bitmap '%s': Invalid argument",
		"could not update qcow2 header: no space left on device":                             "Could not update qcow2 header: No space left on device",
		"decryption has failed":                                                              "Decryption has failed.",
		"error while reading file":                                                           "Error while reading file.",
		"failed to grow the L1 table: file too large":                                        "Failed to grow the L1 table: File too large",
		"failed to read %s: unable to read from socket: %v":                                  "Failed to read %s: Unable to read from socket: %v",
		"failed to read %s: unexpected end-of-file before all data were read":                "Failed to read %s: Unexpected end-of-file before all data were read",
		"given keyslot %d is already erased (inactive)":                                      "Given keyslot %d is already erased (inactive) ",
		"image size must be less than 8 EiB":                                                 "Image size must be less than 8 EiB!",
		"input/output error":                                                                 "Input/output error",
		"the certificate and the given key do not match":                                     "The certificate and the given key do not match.",
		"the image cannot have the name of its own backing file":                             "Error: Trying to create an image with the same filename as the backing file",
		"the requested data were not available":                                              "The requested data were not available.",
		"unable to parse FD number %s: numerical result out of range":                        "Unable to parse FD number %s: Numerical result out of range",
		"max table entries too large (%d)":                                                   "Max Table Entries too large (%d)",
		"invalid image: zero sectors per track":                                              "Invalid image: Zero sectors per track",
		"invalid image: too big cluster":                                                     "Invalid image: Too big cluster",
		"invalid image: too big offset":                                                      "Invalid image: Too big offset",
	}
})
