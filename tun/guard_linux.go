package tun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The guard (RFC 4301, section 5.2, step 3a): a clear packet that a policy would have protected never reaches the TUN, so only
// the kernel can drop it. It stands where the kernel's own IPsec asks its policies: on what is for this machine (input,
// reassembled) and on what is passed on (forward), in an nftables table of our own.
//
// Never dropped: what comes from the TUN of a Coati, or goes to it; loopback; outer traffic, which is ESP, UDP to our ports or
// to another Coati's sockets, and ICMP errors that quote one of them; and neighbour discovery, which the kernel does by itself on
// every link. The other Coatis of this network namespace are known by the group of their devices and the mark of their sockets.
//
// A table outlives its daemon. Its name has the TUN's name in it, so that the next start, of us or of any other daemon of
// this network namespace, finds and removes what nobody alive owns.
const (
	guardPrefix  = "coati-"
	guardDrop    = "dropped"
	guardCounter = "dropped"
	guardInput   = "input"
	guardForward = "forward"

	// deviceGroup is the group (ip link) of every TUN of a Coati.
	deviceGroup = 0xc0a71

	// guardChunk is how many elements fit one netlink attribute of 64 KiB.
	guardChunk = 400
	// guardBuffer is asked of the netlink socket in each direction, octets: a change is one message.
	guardBuffer = 32 << 20
)

// GuardConfig says what our own outer traffic is.
type GuardConfig struct {
	UDPPorts []uint16 // ours: IKE's, and ESP's in UDP
}

// GuardCount is what the guard dropped.
type GuardCount struct{ Packets, Octets uint64 }

// Guard drops clear packets. It is safe for concurrent use.
type Guard struct {
	host    *Host
	ports   []uint16
	sockets bool // the kernel can tell the mark of a packet's socket
	change  *Change

	mu         sync.Mutex // guards what follows
	netns      *os.File   // where a new connection belongs
	nft        *nftables.Conn
	table      *nftables.Table
	input      *nftables.Chain
	forward    *nftables.Chain
	generation uint32
	// What the last change made, to be removed by the next.
	maps   []*nftables.Set
	chains []*nftables.Chain
}

// OpenGuard makes a guard that lets everything pass.
func (h *Host) OpenGuard(c GuardConfig) (*Guard, error) {
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, explainGuard(err)
	}
	nft, err := openNFT(netns)
	if err != nil {
		return nil, errors.Join(explainGuard(err), netns.Close())
	}
	g := &Guard{host: h, ports: c.UDPPorts, netns: netns, nft: nft, table: guardTable(guardPrefix + h.name)}
	removeTable(nft, g.table)
	nft.AddTable(g.table)
	nft.AddObj(&nftables.CounterObj{Table: g.table, Name: guardCounter})
	dropped := nft.AddChain(&nftables.Chain{Table: g.table, Name: guardDrop})
	nft.AddRule(&nftables.Rule{Table: g.table, Chain: dropped, Exprs: []expr.Any{
		&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: guardCounter}, &expr.Verdict{Kind: expr.VerdictDrop},
	}})
	base := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		accept := nftables.ChainPolicyAccept
		return nft.AddChain(&nftables.Chain{
			Table: g.table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &accept,
		})
	}
	g.input, g.forward = base(guardInput, nftables.ChainHookInput), base(guardForward, nftables.ChainHookForward)
	if err := nft.Flush(); err != nil {
		return nil, errors.Join(explainGuard(err), nft.CloseLasting(), netns.Close())
	}
	g.sockets = g.trySockets()
	g.change = h.ledger.Record("nftables table "+g.table.Name, g.close)
	return g, nil
}

// trySockets asks for a rule that no packet meets.
func (g *Guard) trySockets() bool {
	c := g.nft.AddChain(&nftables.Chain{Table: g.table, Name: "attempt"})
	g.nft.AddRule(&nftables.Rule{Table: g.table, Chain: c, Exprs: g.ourSocket()})
	err := g.nft.Flush()
	if err == nil {
		g.nft.FlushChain(c)
		g.nft.DelChain(c)
		err = g.nft.Flush()
	}
	if err != nil {
		g.renew()
	}
	return err == nil
}

// renew takes another connection: one that failed may hold half a change, or its error.
func (g *Guard) renew() {
	if fresh, err := openNFT(g.netns); err == nil {
		_ = g.nft.CloseLasting()
		g.nft = fresh
	}
}

// openNFT connects to the tables of a network namespace; nil: this thread's.
func openNFT(netns *os.File) (*nftables.Conn, error) {
	options := []nftables.ConnOption{nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Without them it works, for fewer policies.
		_, _ = c.SetReadBuffer(guardBuffer), c.SetWriteBuffer(guardBuffer)
		return nil
	})}
	if netns != nil {
		options = append(options, nftables.WithNetNSFd(int(netns.Fd())))
	}
	return nftables.New(options...)
}

func explainGuard(err error) error {
	if errors.Is(err, unix.EPERM) {
		return errNoCapability
	}
	return fmt.Errorf("the guard against clear packets needs nftables with concatenated ranges (Linux 5.6): %w: load nf_tables, or say guard = false in [gateway]", err)
}

func guardTable(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
}

// removeTable removes a table whether it is there or not.
func removeTable(nft *nftables.Conn, t *nftables.Table) {
	nft.AddTable(t)
	nft.DelTable(t)
}

// cleanStaleGuards removes the tables of daemons that live no more, ours too: a guard is a promise of who is there to
// carry what it drops. The caller holds startLock.
func (h *Host) cleanStaleGuards() error {
	nft, err := openNFT(nil)
	if err != nil {
		return nil // without nftables there is nothing to clean
	}
	defer func() { _ = nft.CloseLasting() }()
	tables, err := nft.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil
	}
	var stale []string
	for _, t := range tables {
		name, ok := strings.CutPrefix(t.Name, guardPrefix)
		if !ok || name != h.name && lockHeld(tableLock(tableOf(name))) {
			continue
		}
		stale = append(stale, t.Name)
		nft.DelTable(guardTable(t.Name))
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("delete stale nftables tables %v: %w", stale, err)
	}
	return nil
}

// Replace makes rules the ones that count, in one step: no packet meets half of them. On an error the former ones stay.
func (g *Guard) Replace(rules []GuardRule) error {
	var v4, v6 []GuardRule
	for _, r := range rules {
		if r.Src.First.Is4() {
			v4 = append(v4, r)
		} else {
			v6 = append(v6, r)
		}
	}
	m4, err := buildGuardMap(v4)
	if err != nil {
		return err
	}
	m6, err := buildGuardMap(v6)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.replace(m4, m6); err != nil {
		g.renew()
		return err
	}
	return nil
}

func (g *Guard) replace(m4, m6 *guardMap) error {
	n := g.nft
	g.generation++
	n.FlushChain(g.input)
	n.FlushChain(g.forward)
	for _, m := range g.maps {
		n.DelSet(m)
	}
	for _, c := range g.chains {
		n.FlushChain(c)
		n.DelChain(c)
	}
	var maps []*nftables.Set
	var chains []*nftables.Chain
	lookups := make([][]expr.Any, 0, 2)
	for i, m := range []*guardMap{m4, m6} {
		if len(m.cells) == 0 {
			continue
		}
		set, made, err := g.addMap(m, i == 1)
		if err != nil {
			return err
		}
		maps, chains = append(maps, set), append(chains, made...)
		lookups = append(lookups, lookup(set, i == 1))
	}
	if len(lookups) > 0 {
		g.addRules(lookups)
	}
	if err := n.Flush(); err != nil {
		return explainGuard(err)
	}
	g.maps, g.chains = maps, chains
	return nil
}

// addMap adds the chains and the map of one family.
func (g *Guard) addMap(m *guardMap, v6 bool) (*nftables.Set, []*nftables.Chain, error) {
	family, key := "4", nftables.TypeIPAddr
	id := 2 * g.generation
	if v6 {
		family, key = "6", nftables.TypeIP6Addr
		id++
	}
	var chains []*nftables.Chain
	for i, list := range m.chains {
		c := g.nft.AddChain(&nftables.Chain{Table: g.table, Name: fmt.Sprintf("v%s-%d-%d", family, g.generation, i)})
		for _, cond := range list {
			g.nft.AddRule(&nftables.Rule{Table: g.table, Chain: c, Exprs: cond.exprs()})
		}
		chains = append(chains, c)
	}
	concat, err := nftables.ConcatSetType(key, key)
	if err != nil {
		return nil, nil, err
	}
	set := &nftables.Set{
		Table: g.table, ID: id, Name: fmt.Sprintf("v%s-%d", family, g.generation), IsMap: true, Interval: true, Concatenation: true,
		KeyType: concat, DataType: nftables.TypeVerdict,
	}
	if err := g.nft.AddSet(set, nil); err != nil {
		return nil, nil, err
	}
	for cells := range slices.Chunk(m.cells, guardChunk) {
		elements := make([]nftables.SetElement, 0, len(cells))
		for _, c := range cells {
			to := guardDrop
			if c.chain != dropAll {
				to = chains[c.chain].Name
			}
			elements = append(elements, nftables.SetElement{
				Key: append(c.src.First.AsSlice(), c.dst.First.AsSlice()...), KeyEnd: append(c.src.Last.AsSlice(), c.dst.Last.AsSlice()...),
				VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: to},
			})
		}
		if err := g.nft.SetAddElements(set, elements); err != nil {
			return nil, nil, err
		}
	}
	return set, chains, nil
}

// addRules fills the two base chains: what is never dropped, then the lookups.
func (g *Guard) addRules(lookups [][]expr.Any) {
	leave := &expr.Verdict{Kind: expr.VerdictReturn}
	add := func(c *nftables.Chain, exprs ...expr.Any) {
		g.nft.AddRule(&nftables.Rule{Table: g.table, Chain: c, Exprs: exprs})
	}
	is := func(key expr.MetaKey, value ...byte) []expr.Any {
		return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
	}
	device := func(name string) []byte { return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...) }
	transport := func(offset uint32, value ...byte) []expr.Any {
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: uint32(len(value))},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
		}
	}
	ours, group := device(g.host.name), binary.NativeEndian.AppendUint32(nil, deviceGroup)
	add(g.input, append(is(expr.MetaKeyIIFNAME, device("lo")...), leave)...)
	for _, c := range []*nftables.Chain{g.input, g.forward} {
		add(c, append(is(expr.MetaKeyIIFNAME, ours...), leave)...)
		add(c, append(is(expr.MetaKeyIIFGROUP, group...), leave)...)
	}
	add(g.forward, append(is(expr.MetaKeyOIFNAME, ours...), leave)...)
	add(g.forward, append(is(expr.MetaKeyOIFGROUP, group...), leave)...)
	add(g.input, append(is(expr.MetaKeyL4PROTO, unix.IPPROTO_ESP), leave)...)
	for _, p := range g.ports {
		port := binary.BigEndian.AppendUint16(nil, p)
		add(g.input, slices.Concat(is(expr.MetaKeyL4PROTO, unix.IPPROTO_UDP), transport(2, port...), []expr.Any{leave})...)
	}
	if g.sockets {
		add(g.input, slices.Concat(is(expr.MetaKeyL4PROTO, unix.IPPROTO_UDP), g.ourSocket(), []expr.Any{leave})...)
	}
	for _, e := range icmpErrors {
		about := slices.Concat(is(expr.MetaKeyL4PROTO, e.proto), oneOf(0, e.types))
		add(g.input, slices.Concat(about, transport(e.quotedProto, unix.IPPROTO_ESP), []expr.Any{leave})...)
		for _, p := range g.ports {
			port := binary.BigEndian.AppendUint16(nil, p)
			add(g.input, slices.Concat(about, transport(e.quotedProto, unix.IPPROTO_UDP), transport(e.quotedPort, port...), []expr.Any{leave})...)
		}
		if g.sockets { // the kernel looks for the socket that sent what is quoted
			add(g.input, slices.Concat(about, transport(e.quotedProto, unix.IPPROTO_UDP), g.ourSocket(), []expr.Any{leave})...)
		}
	}
	// In IPv6 what is for this machine is looked at before it is reassembled, and never again. Our own fragments after the first
	// show no port; of anybody else's the first is dropped, and nobody can reassemble the rest.
	add(g.input, append(is(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV6),
		&expr.Exthdr{Op: expr.ExthdrOpIpv6, Type: unix.IPPROTO_FRAGMENT, Offset: 2, Len: 2, DestRegister: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0xff, 0xf8}, Xor: []byte{0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}}, leave)...)
	// RFC 4861, section 6.1.1: neighbour discovery has a hop limit of 255, which no router lets pass.
	nd := slices.Concat(is(expr.MetaKeyL4PROTO, unix.IPPROTO_ICMPV6), oneOf(0, [2]byte{133, 137}))
	add(g.input, append(nd, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{255}}, leave)...)
	for _, l := range lookups {
		add(g.input, l...)
		add(g.forward, l...)
	}
}

// ourSocket matches packets for a socket with the mark of all Coatis of this host.
func (g *Guard) ourSocket() []expr.Any {
	mark := binary.NativeEndian.AppendUint32(nil, g.host.mark)
	return []expr.Any{
		&expr.Socket{Key: expr.SocketKeyMark, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mark, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: mark},
	}
}

// icmpErrors are the errors that may be about our outer packets, and where they quote them: our packets have no options
// and no extension headers. Offsets are from the ICMP header.
var icmpErrors = []struct {
	proto                   byte
	types                   [2]byte // from, to
	quotedProto, quotedPort uint32  // the protocol, the source port
}{
	{unix.IPPROTO_ICMP, [2]byte{3, 3}, 8 + 9, 8 + 20},
	{unix.IPPROTO_ICMP, [2]byte{11, 12}, 8 + 9, 8 + 20},
	{unix.IPPROTO_ICMPV6, [2]byte{1, 4}, 8 + 6, 8 + 40},
}

// oneOf compares an octet of the transport header.
func oneOf(offset uint32, from [2]byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: from[:1], ToData: from[1:]},
	}
}

// lookup asks the map of a family for the packet's verdict.
func lookup(set *nftables.Set, v6 bool) []expr.Any {
	proto, src, length, second := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4), uint32(unix.NFT_REG32_01)
	if v6 {
		proto, src, length, second = unix.NFPROTO_IPV6, 8, 16, unix.NFT_REG_2
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: src, Len: length},
		&expr.Payload{DestRegister: second, Base: expr.PayloadBaseNetworkHeader, Offset: src + length, Len: length},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID, DestRegister: 0, IsDestRegSet: true},
	}
}

// exprs compare protocol and ports. What has no transport header, as a fragment after the first, matches no port: with
// its first fragment dropped nobody can reassemble it.
func (c condition) exprs() []expr.Any {
	var out []expr.Any
	if c.proto != 0 {
		out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{c.proto}})
		srcAt, dstAt, length := uint32(0), uint32(2), uint32(2)
		switch c.proto {
		case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
			dstAt = 0 // type and code, for both ends
		case unix.IPPROTO_MH:
			srcAt, dstAt, length = 2, 2, 1 // the type, for both ends
		}
		for _, side := range []struct {
			at    uint32
			ports PortRange
		}{{srcAt, c.srcPort}, {dstAt, c.dstPort}} {
			if side.ports == AnyPort {
				continue
			}
			from, to := binary.BigEndian.AppendUint16(nil, side.ports.First), binary.BigEndian.AppendUint16(nil, side.ports.Last)
			out = append(out, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: side.at, Len: length},
				&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: from[:length], ToData: to[:length]})
		}
	}
	if c.pass {
		return append(out, &expr.Verdict{Kind: expr.VerdictReturn})
	}
	return append(out, &expr.Verdict{Kind: expr.VerdictGoto, Chain: guardDrop})
}

// Count is what was dropped since the guard was opened.
func (g *Guard) Count() (GuardCount, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	objs, err := g.nft.GetObj(&nftables.CounterObj{Table: g.table, Name: guardCounter})
	if err != nil {
		return GuardCount{}, fmt.Errorf("counter of table %s: %w", g.table.Name, err)
	}
	for _, o := range objs {
		if c, ok := o.(*nftables.CounterObj); ok && c.Name == guardCounter {
			return GuardCount{c.Packets, c.Bytes}, nil
		}
	}
	return GuardCount{}, fmt.Errorf("table %s has lost its counter: somebody else changed it", g.table.Name)
}

// Close removes the guard.
func (g *Guard) Close() error { return g.change.Undo() }

func (g *Guard) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	removeTable(g.nft, g.table)
	err := g.nft.Flush()
	if err != nil {
		err = fmt.Errorf("delete nftables table %s: %w", g.table.Name, err)
	}
	return errors.Join(err, g.nft.CloseLasting(), g.netns.Close())
}
