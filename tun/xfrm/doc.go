// Package xfrm is the kernel as a [policy.Plane]: SAs and policies of RFC 4301 become states and policies of Linux's XFRM,
// over netlink. The kernel moves the packets; Coati's IKE decides as ever.
//
//	wire.go             structures of linux/xfrm.h: octets and back, bounds-checked; pure
//	state.go            an SA as a state, and what of it must read back
//	policies.go         the SPD as the kernel's policies: which there must be
//	netlink_linux.go    requests and acknowledgements
//	plane_linux.go      Plane: SPIs, State, what a former run left
//	apply_linux.go      transactions, with a way back from each step
//	entries_linux.go    all SAs as they stand, for people
//	events_linux.go     acquires, expiries, mappings; and the first packet of an SA
//	probe_linux.go      whether this kernel has ESP at all
//	socket_linux.go     what IKE's sockets need beside it
//
// # What differs from the userspace plane
//
//   - A packet without an SA waits in the kernel, with up to a hundred others of its policy, if net.core.xfrm_larval_drop is 0
//     (tun.Host.HoldWithoutSA); else the kernel drops it and says EAGAIN to its sender. The kernel looks after them when the
//     policy changes, which it does when there is an SA. After a failed negotiation the policy refuses for a moment (EPERM),
//     so that what waits is dropped and does not ask again by itself.
//   - An outbound policy of level use asks for no SA in tunnel mode: without one it is a bypass.
//   - There are no standby SAs in the kernel. One is kept here, with its keys, and installed when it is activated.
//   - The kernel forgets which policy an identical other one replaced. The SPD is kept here, and what wins is installed.
//   - Octets are counted as the kernel counts them: outbound with the outer header.
//   - An SA whose peer moved is installed anew, an outbound one with its sequence number leaping by 2^20. The kernel would draw
//     the nonces of a counter mode anew then: such an outbound SA does not move, it is to be rekeyed (policy.ErrRekey).
//
// # Whose they are
//
// The upper 12 bits of the kernel's reqid and policy index are a tag made from the plane's name. States and policies with
// it are ours; those of a killed run are deleted by the next start of that name.
//
// Keys go into a buffer that is wiped once written, and buffers that were read are wiped too, since the kernel shows keys
// to root.
package xfrm
