package tun

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// DefaultMark is the one bit of the packet mark that all daemons of a host share. It keeps
	// off the bits of Kubernetes (0xc000), Cilium (0x0f00) and Tailscale, Calico (0xff0000 and up).
	DefaultMark = 0x2000

	// RouteProtocol stands on each of our routes and rules: `ip route show table all proto 167`.
	RouteProtocol = 167

	// tableBase and the low 24 bits of a hash of the TUN's name make the table number.
	tableBase = 0x43000000
	tableMask = 0xff000000
)

// Config says who we are on this host.
type Config struct {
	Name     string // TUN device name, at most 15 octets: it is our identity on the host
	StateDir string // holds saved sysctls; survives a crash, not a reboot (/run/coati)
	Mark     uint32 // exactly one bit; 0 means DefaultMark
}

// Host is this daemon's presence in one network namespace. See the package comment.
type Host struct {
	name     string
	stateDir string
	mark     uint32
	table    uint32
	nl       *netlink.Handle
	lookup   *lookups
	ledger   Ledger
}

// Open claims the TUN name in this thread's network namespace, and cleans what a killed daemon of
// the same name, or of a name nobody uses now, left behind (prohibit routes left on purpose stay
// until [Host.OpenRoutes]). It is an error if a living daemon has the name.
func Open(c Config) (*Host, error) {
	if c.Mark == 0 {
		c.Mark = DefaultMark
	}
	if c.Mark&(c.Mark-1) != 0 {
		return nil, fmt.Errorf("mark %#x has more than one bit: the mark is one bit shared by all coatis of a host", c.Mark)
	}
	if c.Name == "" || len(c.Name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("tun name %q: want 1 to %d octets", c.Name, unix.IFNAMSIZ-1)
	}
	if err := Available(); err != nil {
		return nil, err
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	h := &Host{name: c.Name, stateDir: c.StateDir, mark: c.Mark, table: tableOf(c.Name), nl: nl}
	h.ledger.Record("netlink socket", func() error { nl.Close(); return nil })
	if h.lookup, err = openLookup(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	h.ledger.Record("socket for look-ups", h.lookup.close)
	err = underStartLock(func() error {
		l, err := takeLock(tableLock(h.table))
		if errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("tun %s is in use by %s: name another one with tun = in [gateway]", c.Name, lockHolder(tableLock(h.table)))
		}
		if err != nil {
			return err
		}
		h.ledger.Record("lock of "+c.Name, l.release)
		return errors.Join(h.cleanStaleRules(), h.cleanStaleGuards(), h.restoreStaleRPFilters(), h.restoreStaleHold())
	})
	if err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// Close undoes everything, newest first, and gives the name back.
func (h *Host) Close() error { return h.ledger.Close() }

// Ledger is the record of what we changed.
func (h *Host) Ledger() *Ledger { return &h.ledger }

// Table is the number of our routing table.
func (h *Host) Table() int { return int(h.table) }

// Mark is the bit our sockets carry.
func (h *Host) Mark() uint32 { return h.mark }

// Available says, in words for people, what this machine lacks to run a gateway.
func Available() error {
	f, err := os.OpenFile(tunPath, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err == nil {
		f.Close()
	}
	if err := explainTUN(err); err != nil {
		return err
	}
	if !mayAdminister() {
		return errNoCapability
	}
	return nil
}

// mayAdminister asks for CAP_NET_ADMIN and CAP_NET_RAW in effect.
func mayAdminister() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return true
	}
	const need = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	return data[0].Effective&need == need
}

// errNoCapability is for every EPERM that stems from a missing capability.
var errNoCapability = errors.New("this needs CAP_NET_ADMIN and CAP_NET_RAW: run as root, or add --cap-add NET_ADMIN --cap-add NET_RAW to the container")

func tableOf(name string) uint32 {
	sum := fnv.New32a()
	sum.Write([]byte(name))
	return tableBase | sum.Sum32()&^uint32(tableMask)
}

func tableLock(table uint32) string { return fmt.Sprintf("%stable/%08x", lockPrefix, table) }

// netnsID names the network namespace of this thread for the life of the machine: cookies are
// never given twice, inode numbers are.
func netnsID() (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		return fmt.Sprintf("c%d", cookie), nil
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("network namespace: %w", err)
	}
	return fmt.Sprintf("i%d", st.Ino), nil
}
