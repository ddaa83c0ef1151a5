// Package http reads disks from web servers, over HTTP/1.1 (RFC 9110, RFC 9112) with
// byte ranges (RFC 9110, section 14), and from FTP servers (RFC 959, RFC 3659), over TLS
// from the first byte with ftps. It cannot write.
//
// Of web servers:
//
//   - The size comes from the answer to a range (Content-Range): no HEAD request is made,
//     which signed URLs of object stores refuse.
//   - Redirections are followed once, when the disk is opened. When the address that they
//     led to is refused later (it has expired), they are followed again.
//   - ETag, Last-Modified and the length are compared in each answer: a disk that changes
//     while it is open is an error, not a mixture.
//   - What can be expected to pass is tried again, from the byte that was reached, for a
//     bounded number of times: lost connections, silence for longer than the time-out, 408,
//     416, 425, 429 and 5xx.
//   - Small reads go through a cache of windows. Reads that follow each other make the
//     windows that are fetched by one request more, ahead of the reader.
//   - From a server without byte ranges the whole object is fetched as one stream. As long as
//     reads follow it, it goes through memory and is fetched no faster than it is read; what reads
//     do not follow goes into a sparse temporary file that has no name.
//
// Credentials, cookies and further header fields are sent to the host of the URL only,
// not to where it redirects.
//
// Of FTP servers: the size comes from SIZE, ranges from REST in binary, passive mode. A
// transfer stays open for the reader that goes on where it is; others have connections
// of their own, up to four or what the server allows. SIZE and MDTM are compared for
// each new connection. What can be expected to pass is tried again as above. Proxies are
// not used.
//
// # Locks
//
// client.mu, cache.mu and spool.mu are leaves: none is held while another is taken, nor
// across I/O. So are ftpClient.mu, but for ftpConn.mu below it, and ftpConn.mu.
package http
