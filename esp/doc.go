// Package esp moves packets: RFC 4303 on frames and batches, and the userspace [Plane]. It opens no socket and no device;
// the gateway joins it to them through [FrameReader], [FrameWriter] and [Egress].
//
// # Outbound: one goroutine per TUN queue, run to completion
//
//  1. read      one frame: a virtio header and up to 64 KiB of one flow            outbound.go
//  2. classify  flow cache, then SPD: protect, bypass, discard; then the SA        outbound.go spd.go sad.go
//  3. wait      a packet without an SA waits for it, in order                      acquire.go
//  4. segment   as the kernel would have: lengths, IDs, sequence, checksums        segment.go
//  5. gather    packets of one SA, size and class leave in company if it is there  seal.go
//  6. seal      a reserved run of sequence numbers, one contiguous buffer          seal.go transform.go
//  7. send      when it is this run's turn: at most 64 packets in one call         seal.go turn.go
//
// # Inbound: one goroutine per socket, run to completion
//
//  8. sort      a run of datagrams: IKE, keepalives, ESP by SPI                    inbound.go
//  9. wait      what comes before its SA waits for it, in order                   larval.go
//  10. open      window check, decryption in place, window update                   inbound.go window.go
//  11. unwrap   padding, inner packet, selectors, ECN                              unwrap.go ecn.go
//  12. join     neighbouring segments of a flow become one frame again             coalesce.go
//
// In transport mode packets keep their own header: transport.go. Headers the kernel cannot be told of are written in header.go.
//
// With processors to spare a socket has two goroutines, which take turns while datagrams wait in it (relay.go).
//
// Beside the stages: the plane and its transactions (plane.go apply.go), path MTU and ICMP answers (mtu.go pathmtu.go), fragments
// and ports (fragment.go fragment_inbound.go), ICMP errors inside a tunnel (icmp.go), packets that carry nothing (dummy.go), what is
// told, counted and shown (events.go counters.go dump.go).
//
// # Who owns what
//
// Policies and SAs are reached through immutable snapshots behind atomic pointers; only Apply changes them, under one
// mutex. An SA's counters are atomic, its replay window has a mutex taken twice per run of packets. A queue (Outbound,
// Inbound) and all its buffers belong to the one goroutine that uses it. Time comes from Tick; the data path reads no clock.
//
// Whatever is not delivered is counted under one of the [Reason]s, for the plane and, where one is known, for the SA.
package esp
