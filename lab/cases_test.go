package lab

import "net/netip"

// Peers and roles of the table. A role is Coati's.
const (
	peerStrongSwan = "strongSwan"
	peerCoati      = "coati"
	peerIKEScan    = "ike-scan"
	peerHostile    = "hostile"

	roleInitiator = "initiator"
	roleResponder = "responder"
	roleBoth      = "both"
	roleHost      = "on its host"
)

var bothRoles = []string{roleInitiator, roleResponder}

// Cases that stand alone; the others are made from the lists below.
const (
	caseDeleteByCoati = "deleted by coati"
	caseDeleteByPeer  = "deleted by the peer"
	casePeerKilled    = "peer killed and restarted"
	caseESN           = "extended sequence numbers"
	caseHandshake     = "handshake"
	caseRandom        = "1,000 random datagrams"
	caseMutated       = "1,000 mutated datagrams"
	caseAmplification = "no amplification"
	caseTerminate     = "SIGTERM leaves nothing, peer told"
	caseKill          = "kill -9, start, nothing stale"
	caseRPFilter      = "rp_filter 0, 1 and 2"
	caseTwoDaemons    = "two daemons on one host"
	casePortTaken     = "second daemon on one port refused"

	caseChildByCoati   = "child rekeyed by coati"
	caseChildByPeer    = "child rekeyed by the peer"
	caseIKEByCoati     = "IKE SA rekeyed by coati"
	caseIKEByPeer      = "IKE SA rekeyed by the peer"
	caseChildCrossing  = "child rekeys crossing"
	caseIKECrossing    = "IKE rekeys crossing"
	caseLifetimes      = "lifetimes of 10 s"
	caseReauth         = "reauthentication for the peer"
	casePFS            = "children with PFS"
	caseTwoChildren    = "two children"
	caseNAT            = "behind a NAT that forgets and rebinds"
	caseSelectors      = "packets outside the selectors"
	caseBypass         = "in clear while there is no SA"
	caseNeighbours     = "neighbour discovery stays outside"
	caseQueues         = "both TUN queues carry"
	casePlainPing      = "ping without options"
	caseReload         = "reload under streams"
	caseMoves          = "our address changes under a stream"
	caseCommands       = "every command, its words and exit code"
	caseRefusals       = "bad input: one line, exit code 2"
	caseMTU            = "path MTU, large TCP segments"
	caseTwoClients     = "two clients of remote = any"
	caseDemo           = "make demo, again, and after kill -9"
	caseExplained      = "misconfigurations explained"
	caseManual         = "manual keys, transport mode, by setkey"
	caseCoatiRestarted = "coati killed, then stopped"
	caseBlackHole      = "a 1,280-octet hop in the middle"
	caseForgedMTU      = "forged ICMP about the path MTU"
	caseOnExit         = "on-exit block and restore, TERM and kill -9"
	caseGuard          = "forged clear packets"
	caseChildless      = "IKE SAs without a first child"
	caseOldCiphers     = "old ciphers, groups, PRFs and MACs of IKE"
	casePPK            = "post-quantum pre-shared keys"
	casePostQuantum    = "ML-KEM in IKE SAs, children and rekeys"
	caseGuardReload    = "the guard follows the configuration"
)

var families = []string{"IPv4", "IPv6"}

// A cipherCase is a proposal of each kind.
type cipherCase struct{ ike, esp string }

func (c cipherCase) String() string { return c.ike + " / " + c.esp }

// cipherCases pairs every IKE cipher with every group, and every PRF and ESP cipher with each of
// both: twelve negotiations instead of seventy-two.
func cipherCases() []cipherCase {
	ikeCiphers := []string{"aes128gcm16", "aes256gcm16", "aes128-sha256"}
	prfs := []string{"prfsha256", "prfsha384"}
	groups := []string{"modp2048", "ecp256", "ecp384", "x25519"}
	espCiphers := []string{"aes128gcm16", "aes256gcm16", "aes128-sha256"}
	var cases []cipherCase
	for g, group := range groups {
		for c, cipher := range ikeCiphers {
			cases = append(cases, cipherCase{
				cipher + "-" + prfs[(g+c)%len(prfs)] + "-" + group,
				espCiphers[(g+c)%len(espCiphers)],
			})
		}
	}
	return cases
}

// A carriage is what is inside a tunnel between two Coatis, and how it is carried.
type carriage struct{ inner, outer, encap string }

func (c carriage) String() string { return c.inner + " in " + c.outer + ", " + c.encap }

func carriages() []carriage {
	var all []carriage
	for _, encap := range []string{"esp", "udp"} {
		for _, outer := range families {
			for _, inner := range families {
				all = append(all, carriage{inner, outer, encap})
			}
		}
	}
	return all
}

// lan is a host's inner address and prefix of a family; outer its outer address.
func lan(h *Host, family string) (netip.Addr, netip.Prefix) {
	if family == "IPv6" {
		return h.LAN6, h.LANNet6
	}
	return h.LAN4, h.LANNet4
}

func outer(h *Host, family string) netip.Addr {
	if family == "IPv6" {
		return h.Outer6
	}
	return h.Outer4
}

// results is the table of this run: every cell must be filled.
var results = NewTable(declared()...)

func declared() []Cell {
	cells := append(addressCells(), mobikeCells()...)
	for _, role := range bothRoles {
		for _, family := range families {
			cells = append(cells, Cell{peerStrongSwan, role, family + " outside"})
		}
		for _, c := range cipherCases() {
			cells = append(cells, Cell{peerStrongSwan, role, c.String()})
		}
		for _, what := range []string{
			caseDeleteByCoati, caseDeleteByPeer, casePeerKilled, caseCoatiRestarted, caseTwoChildren,
			caseChildByCoati, caseChildByPeer, caseIKEByCoati, caseIKEByPeer, caseChildCrossing, caseIKECrossing,
			caseLifetimes, caseReauth, casePPK, caseOldCiphers, caseChildless, caseExplained, caseNAT,
		} {
			cells = append(cells, Cell{peerStrongSwan, role, what})
		}
	}
	cells = append(cells, Cell{peerStrongSwan, roleBoth, casePFS}, Cell{peerStrongSwan, roleResponder, caseTwoClients})
	for _, family := range families {
		cells = append(cells, Cell{peerCoati, roleBoth, caseTransport(family, "esp")}, Cell{peerCoati, roleBoth, caseTransport(family, "udp")})
	}
	cells = append(cells, Cell{peerCoati, roleBoth, caseTransport("IPv4", "through a NAT")})
	for _, c := range carriages() {
		cells = append(cells, Cell{peerCoati, roleBoth, c.String()})
	}
	cells = append(cells, Cell{peerCoati, roleBoth, caseManual}, Cell{peerCoati, roleBoth, caseESN}, Cell{peerCoati, roleBoth, casePostQuantum}, Cell{peerCoati, roleBoth, caseNAT}, Cell{peerIKEScan, roleResponder, caseHandshake})
	for _, what := range []string{caseRandom, caseMutated, caseAmplification} {
		for _, family := range families {
			cells = append(cells, Cell{peerHostile, roleResponder, what + ", " + family})
		}
	}
	cells = append(cells, Cell{peerHostile, roleResponder, caseSelectors}, Cell{peerHostile, roleHost, caseGuard}, Cell{peerHostile, roleHost, caseForgedMTU})
	for _, what := range []string{
		caseTerminate, caseKill, caseRPFilter, caseTwoDaemons, casePortTaken, caseBypass, caseNeighbours, caseQueues, casePlainPing, caseMTU, caseDemo,
		caseReload, caseMoves, caseCommands, caseRefusals, caseGuardReload, caseOnExit, caseBlackHole,
	} {
		cells = append(cells, Cell{peerCoati, roleHost, what})
	}
	return append(append(append(cells, certCells()...), eapCells()...), append(radiusCells(), kernelCells()...)...)
}
