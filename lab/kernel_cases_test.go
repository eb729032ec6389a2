package lab

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"coati/policy"
)

// Peers in a kernel that has ESP.
const (
	peerKernel     = "Linux ESP"
	peerXFRM       = "coati on XFRM"
	peerSwanKernel = "strongSwan, Linux ESP"
	peerLibreswan  = "Libreswan, Linux ESP"
	peerOpenIKED   = "OpenIKED, Linux ESP"

	casePlaneTest     = "planetest"
	caseXFRMRekeys    = "rekeys under streams"
	caseXFRMManual    = "manual keys"
	caseXFRMLifetimes = "lifetimes end"
	caseXFRMMapping   = "the peer's port changes"
	caseXFRMKilled    = "kill -9"
	caseXFRMFirst     = "no first packet lost"
	caseXFRMUse       = "level use"
	caseRawESN        = "raw ESP with ESN"
	caseKernelUDP     = "ESP in UDP with ESN"
	caseRawHosts      = "raw ESP, transport mode"
	caseUDPHosts      = "ESP in UDP, transport mode"
)

// A kernelCase is one way of carrying traffic between Coati in userspace and the kernel's ESP.
type kernelCase struct {
	esp         string // proposal, with its sequence numbers
	transport   bool
	inner6      bool // tunnel mode: the inner family
	outer6, udp bool
}

func (c kernelCase) String() string {
	mode, inner, outer, encap := "tunnel", "IPv4", "IPv4", "raw"
	if c.inner6 {
		inner = "IPv6"
	}
	if c.outer6 {
		outer = "IPv6"
	}
	if c.udp {
		encap = "UDP"
	}
	if c.transport {
		return fmt.Sprintf("%s transport %s %s", c.esp, outer, encap)
	}
	return fmt.Sprintf("%s %s %s in %s %s", c.esp, mode, inner, outer, encap)
}

// kernelCiphers are the proposals both ends have: each cipher with its longest key, and every integrity algorithm with one of
// the ciphers that take one.
func kernelCiphers() []string {
	var ciphers, plain, integs []string
	seen := map[uint16]bool{}
	for i := range policy.Algorithms {
		a := &policy.Algorithms[i]
		if a.Use&policy.UseESP == 0 || a.XFRM == "" {
			continue
		}
		switch {
		case a.Type == policy.TransformINTEG:
			integs = append(integs, a.Keyword)
		case a.Type != policy.TransformENCR || seen[a.ID]:
		case a.AEAD:
			ciphers = append(ciphers, a.Keyword)
		default:
			plain = append(plain, a.Keyword)
		}
		if a.Type == policy.TransformENCR {
			seen[a.ID] = true
		}
	}
	for i := range max(len(plain), len(integs)) {
		ciphers = append(ciphers, plain[i%len(plain)]+"-"+integs[i%len(integs)])
	}
	return ciphers
}

// frontCases are the ways of transport mode.
func frontCases() []kernelCase {
	var out []kernelCase
	for _, way := range []int{0, wayUDP, wayOuter6, wayOuter6 | wayUDP} {
		out = append(out, kernelCaseOf("aes128gcm16", way|wayTransport))
	}
	return out
}

func caseFronts(c kernelCase) string {
	what := "IPv4 options"
	if c.outer6 {
		what = "extension headers"
	}
	if c.udp {
		return what + " in front of ESP in UDP"
	}
	return what + " in front of raw ESP"
}

// Bits of a way.
const (
	wayTransport = 1 << iota
	wayInner6
	wayOuter6
	wayUDP
	wayESN
	ways
)

func kernelCaseOf(cipher string, way int) kernelCase {
	c := kernelCase{esp: cipher + "-noesn", transport: way&wayTransport != 0, inner6: way&wayInner6 != 0, outer6: way&wayOuter6 != 0, udp: way&wayUDP != 0}
	if way&wayESN != 0 {
		c.esp = cipher + "-esn"
	}
	if c.transport {
		c.inner6 = false
	}
	return c
}

// pairwise are patterns in which every two bits take all four values; each cipher has one of them and its opposite.
var pairwise = []int{0b00000, 0b00111, 0b01011, 0b01101, 0b10110, 0b11010, 0b10001, 0b11100}

// matrixVariable names the file that all of the matrix is written to, where all of it is wanted.
const matrixVariable = "COATI_MATRIX"

// kernelCases are what make test tries: every cipher with both values of everything, and every pair of other values; and
// what make matrix tries: everything.
func kernelCases() []kernelCase {
	var out []kernelCase
	if os.Getenv(matrixVariable) != "" {
		for _, cipher := range kernelCiphers() {
			for way := range ways {
				if c := kernelCaseOf(cipher, way); !slices.Contains(out, c) {
					out = append(out, c)
				}
			}
		}
		return out
	}
	for i, cipher := range kernelCiphers() {
		for _, way := range []int{pairwise[i%len(pairwise)], ^pairwise[i%len(pairwise)] & (ways - 1)} {
			if c := kernelCaseOf(cipher, way); !slices.Contains(out, c) {
				out = append(out, c)
			}
		}
	}
	return out
}

func kernelCells() []Cell {
	var cells []Cell
	for _, c := range kernelCases() {
		cells = append(cells, Cell{peerKernel, roleInitiator, c.String()})
	}
	for _, c := range manualCases() {
		cells = append(cells, Cell{peerKernel, roleBoth, c.String()})
	}
	for _, c := range frontCases() {
		cells = append(cells, Cell{peerKernel, roleBoth, caseFronts(c)})
	}
	for _, what := range []string{casePlaneTest, caseXFRMRekeys, caseXFRMManual, caseXFRMLifetimes, caseXFRMMapping, caseXFRMKilled, caseXFRMFirst, caseXFRMUse} {
		cells = append(cells, Cell{peerXFRM, roleBoth, what})
	}
	for _, role := range bothRoles {
		for _, sc := range swanCases {
			cells = append(cells, Cell{peerSwanKernel, role, sc.what})
		}
	}
	return append(append(cells, plutoCells()...), ikedCells()...)
}

// kernelMatrix is the page of all cases: outcomes by cipher and way.
func kernelMatrix(outcome func(Cell) string) string {
	var heads []string
	rows, order := map[string]map[string]string{}, []string{}
	for _, c := range kernelCases() {
		cell := Cell{peerKernel, roleInitiator, c.String()}
		how := strings.TrimPrefix(c.String(), c.esp+" ")
		if rows[c.esp] == nil {
			rows[c.esp], order = map[string]string{}, append(order, c.esp)
		}
		if !slices.Contains(heads, how) {
			heads = append(heads, how)
		}
		word, _, _ := strings.Cut(outcome(cell), " ")
		rows[c.esp][how] = cmp.Or(word, "not tried")
	}
	slices.Sort(heads)
	slices.Sort(order)
	var b strings.Builder
	fmt.Fprintf(&b, "| proposal | %s |\n|---%s|\n", strings.Join(heads, " | "), strings.Repeat("|---", len(heads)))
	for _, esp := range order {
		fmt.Fprintf(&b, "| %s ", esp)
		for _, how := range heads {
			fmt.Fprintf(&b, "| %s ", rows[esp][how])
		}
		b.WriteString("|\n")
	}
	return b.String()
}
