package trace

// Event is something that happens inside, worth a line.
type Event uint8

// The events.
const (
	// The block layer.
	BdrvOpenCommon Event = iota
	BdrvCoPreadv
	BdrvCoPwritev
	BdrvCoPwriteZeroes
	BdrvCoPdiscard
	BdrvCoFlush
	BdrvCoCopyRange

	// Formats.
	Qcow2AllocClustersOffset
	Qcow2ClusterLinkL2

	// Protocols.
	FilePreadv
	FilePwritev
	FileFlush
	FileView
	FileCopyFileRange
	NBDClientHandshake
	NBDClientHandshakeSuccess
	NBDSendRequest

	// The NBD server.
	NBDNegotiateBegin
	NBDNegotiateSuccess
	NBDReceiveRequest
	NBDCoSendSimpleReply

	numEvents
)

// events holds, for each event, its name and the form of the rest of the line.
var events = [numEvents]struct{ name, form string }{
	BdrvOpenCommon:     {"bdrv_open_common", "filename %q format_name %q"},
	BdrvCoPreadv:       {"bdrv_co_preadv_part", "offset %d bytes %d"},
	BdrvCoPwritev:      {"bdrv_co_pwritev_part", "offset %d bytes %d"},
	BdrvCoPwriteZeroes: {"bdrv_co_pwrite_zeroes", "offset %d count %d flags 0x%x"},
	BdrvCoPdiscard:     {"bdrv_co_pdiscard", "offset %d bytes %d"},
	BdrvCoFlush:        {"bdrv_co_flush", ""},
	BdrvCoCopyRange:    {"bdrv_co_copy_range_to", "src offset %d dst offset %d bytes %d"},

	Qcow2AllocClustersOffset: {"qcow2_alloc_clusters_offset", "offset 0x%x host_offset 0x%x bytes 0x%x"},
	Qcow2ClusterLinkL2:       {"qcow2_cluster_link_l2", "offset 0x%x nb_clusters %d"},

	FilePreadv:                {"file_co_preadv", "offset %d bytes %d"},
	FilePwritev:               {"file_co_pwritev", "offset %d bytes %d"},
	FileFlush:                 {"file_co_flush", ""},
	FileView:                  {"file_view", "offset %d bytes %d"},
	FileCopyFileRange:         {"file_copy_file_range", "in_off %d out_off %d ret %d"},
	NBDClientHandshake:        {"nbd_client_handshake", "export name %q"},
	NBDClientHandshakeSuccess: {"nbd_client_handshake_success", "export name %q"},
	NBDSendRequest:            {"nbd_send_request", "Sending request to server: { .from = %d, .len = %d, .flags = 0x%x, .type = %d }"},

	NBDNegotiateBegin:    {"nbd_negotiate_begin", "Beginning negotiation"},
	NBDNegotiateSuccess:  {"nbd_negotiate_success", "Negotiation succeeded: export name %q"},
	NBDReceiveRequest:    {"nbd_receive_request", "Got request: { .flags = 0x%x, .type = 0x%x, from = %d, len = %d }"},
	NBDCoSendSimpleReply: {"nbd_co_send_simple_reply", "Send reply: type = 0x%x, error = %d"},
}
