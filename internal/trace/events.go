package trace

// Event is something that happens inside, worth a line.
type Event uint8

// The events.
const (
	// The block layer.
	BdrvOpenCommon Event = iota
	BlkCoPreadv
	BlkCoPwritev
	BlkCoPwriteZeroes
	BlkCoPdiscard
	BlkCoFlush
	BdrvCoCopyRange
	BdrvCoCopyOnWrite

	// Formats.
	Qcow2AllocClusters
	Qcow2LinkL2
	Qcow2L2Allocate
	Qcow2CacheFlush
	Qcow2PwriteZeroes
	LUKSUnlock

	// Protocols.
	FilePread
	FilePwrite
	FileFlush
	FileCopyFileRange
	NBDClientHandshake
	NBDClientHandshakeSuccess
	NBDReconnectAttempt
	NBDSendRequest

	// The NBD server.
	NBDNegotiateBegin
	NBDNegotiateOption
	NBDNegotiateSuccess
	NBDNegotiateFailed
	NBDReceiveRequest
	NBDCoSendReply
	NBDClientGone

	numEvents
)

// events holds, for each event, its name and the form of the line. A name that the
// event carries is %q; all other values are int64.
var events = [numEvents]struct{ name, form string }{
	BdrvOpenCommon:    {"bdrv_open_common", "filename %q flags 0x%x"},
	BlkCoPreadv:       {"blk_co_preadv", "offset %d bytes %d flags 0x%x"},
	BlkCoPwritev:      {"blk_co_pwritev", "offset %d bytes %d flags 0x%x"},
	BlkCoPwriteZeroes: {"bdrv_co_pwrite_zeroes", "offset %d count %d flags 0x%x"},
	BlkCoPdiscard:     {"blk_co_pdiscard", "offset %d bytes %d"},
	BlkCoFlush:        {"blk_co_flush", "%q"},
	BdrvCoCopyRange:   {"bdrv_co_copy_range_to", "dst offset %d bytes %d flags 0x%x"},
	BdrvCoCopyOnWrite: {"bdrv_co_copy_on_write", "offset %d bytes %d cluster_offset %d cluster_bytes %d"},

	Qcow2AllocClusters: {"qcow2_cluster_alloc_phys", "host_offset 0x%x bytes 0x%x"},
	Qcow2LinkL2:        {"qcow2_cluster_link_l2", "offset 0x%x nb_clusters %d"},
	Qcow2L2Allocate:    {"qcow2_l2_allocate", "l1_index %d"},
	Qcow2CacheFlush:    {"qcow2_cache_flush", "is_l2_cache %d"},
	Qcow2PwriteZeroes:  {"qcow2_pwrite_zeroes", "offset 0x%x bytes %d"},
	LUKSUnlock:         {"qcrypto_block_luks_unlock", "slot %d"},

	FilePread:                 {"file_co_preadv", "offset %d bytes %d"},
	FilePwrite:                {"file_co_pwritev", "offset %d bytes %d"},
	FileFlush:                 {"file_co_flush", "%q"},
	FileCopyFileRange:         {"file_copy_file_range", "in_off %d out_off %d bytes %d"},
	NBDClientHandshake:        {"nbd_client_handshake", "export %q"},
	NBDClientHandshakeSuccess: {"nbd_client_handshake_success", "export %q"},
	NBDReconnectAttempt:       {"nbd_reconnect_attempt", "in_flight %d"},
	NBDSendRequest:            {"nbd_send_request", "Sending request to server: { .from = %d, .len = %d, .flags = 0x%x, .type = %d }"},

	NBDNegotiateBegin:   {"nbd_negotiate_begin", "Beginning negotiation with %q"},
	NBDNegotiateOption:  {"nbd_negotiate_options_check_option", "Checking option %d with %d bytes"},
	NBDNegotiateSuccess: {"nbd_negotiate_success", "Negotiation succeeded for export %q"},
	NBDNegotiateFailed:  {"nbd_negotiate_failed", "Negotiation failed: %q"},
	NBDReceiveRequest:   {"nbd_receive_request", "Got request: { flags = 0x%x, .type = 0x%x, from = %d, len = %d }"},
	NBDCoSendReply:      {"nbd_co_send_simple_reply", "Send reply: type = %d, error = %d, len = %d"},
	NBDClientGone:       {"nbd_client_gone", "%q"},
}
