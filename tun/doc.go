// Package tun touches the machine: the TUN device, the sockets that carry IKE and ESP, and
// the routes, rules and sysctls that lead packets to them. It is Linux only for now.
//
// # Who owns what
//
// A [Host] is this daemon's presence in one network namespace, named by its TUN device. It
// holds the lock on that name and a [Ledger] of every change made to the machine; Close undoes
// them in reverse. Everything else is opened from it:
//
//	Host.OpenDevice      the TUN device and its queues: one frame per read, one frame per writev
//	Host.OpenUDP         UDP sockets of one local address and port, with GSO and GRO
//	Host.OpenRawESP      one raw socket for IP protocol 50
//	Host.OpenClear       the way out for packets that policy leaves in clear
//	Host.OpenRoutes      routes and rules in a table of our own
//	OpenSurvey           looks without claiming or changing anything
//	Host.OpenGuard       drops clear packets that should have been protected
//	Host.LoosenRPFilter  reverse-path filter of an uplink, loose for the run
//	Host.HoldWithoutSA   packets wait in the kernel for their SA, for the run
//	Host.RouteTo         how our own sockets reach a peer; Host.Look for many at once
//	Host.Watch           link, address and route changes of the machine
//
// # Keeping out of our own way
//
// A policy may cover the peer's own address, and then our ESP packets would be routed into the
// TUN again. So our sockets carry a mark (SO_MARK), and the rule that leads to our table says
// "not fwmark BIT/BIT". The bit is the same for all daemons of a host: the packets of one must
// not be taken for tunnel traffic by the other. Table, name and lock differ per daemon.
//
// # What a crash leaves
//
// Device and TUN routes vanish with the process; rules, prohibit routes, the guard's table and sysctls stay. Rules
// and routes carry our own protocol number and a table number derived from the TUN's name, and
// whoever lives holds an abstract unix socket of that table (abstract names are per network
// namespace, and end with the process): what has our protocol but no living owner is stale.
//
// # Threads
//
// Network namespaces belong to threads. A Host works in the namespace of the thread that called
// Open; the Open methods, LoosenRPFilter and Close must be called in that namespace too. Frames
// and packets may be read and written from any thread.
//
// # System calls
//
// Descriptors are non-blocking, and what waits is the runtime's poller. So the calls of the data path don't tell the
// scheduler that they leave Go (RawSyscall): a run of 64 packets takes the kernel longer than the 20
// microseconds after which it gives the processor to another thread, and that costs more than the call.
//
// Errors that concern one packet are plain values ([ErrTooBig], a syscall.Errno), so that no
// packet costs an allocation. After Close, reads and writes return os.ErrClosed.
package tun
