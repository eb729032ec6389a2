// Package packet reads and edits packets where they lie. A header is a named byte slice whose methods are the fields
// of the RFC's picture; nothing is copied and nothing is allocated. Whoever makes a view has checked its length:
// Parse does so for a whole IP packet, once.
//
//	ip.go        IPv4 (RFC 791), IPv6 (RFC 8200)
//	transport.go TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792, RFC 4443)
//	esp.go       ESP (RFC 4303, section 2)
//	virtio.go    virtio_net_hdr (VIRTIO 1.2, section 5.1.6)
//	parse.go     from an IP packet to its flow key and transport offset
//	checksum.go  the Internet checksum (RFC 1071, RFC 1624)
//	icmperror.go ICMP errors about a packet
package packet
