package lab

import (
	"regexp"
	"sort"
	"strings"
	"testing"
)

// A Machine is what a host's kernel holds that a gateway may change, as text by kind.
type Machine map[string]string

var (
	// Numbers that change by themselves, and names of the other end's namespace.
	// What ip says of links whose other end is being removed by another test is no part of it, nor how much waits in a socket.
	restless  = regexp.MustCompile(`(?m)(UNCONN) +\d+ +\d+ +|Error: Peer netns reference is invalid\.\n?|(valid_lft|preferred_lft|expires) \S+|link-netns\S* \S+|used \d+\S*|age \S+`)
	questions = map[string][]string{
		"links":     {"ip", "-o", "link"},
		"addresses": {"ip", "-o", "addr"},
		"rules":     {"ip", "rule"},
		"rules6":    {"ip", "-6", "rule"},
		"routes":    {"ip", "route", "show", "table", "all"},
		"routes6":   {"ip", "-6", "route", "show", "table", "all"},
		"nftables":  {"nft", "list", "ruleset"},
		"sysctls":   {"sysctl", "-ar", `^net\.ipv[46]\.(conf\..*\.(rp_filter|src_valid_mark|forwarding|accept_redirects|send_redirects|disable_policy|disable_xfrm)|ip_forward)$`},
		"sockets":   {"ss", "-Hlnuw"},
	}
)

// Machine takes stock of the host.
func (h *Host) Machine(t testing.TB) Machine {
	t.Helper()
	m := Machine{}
	for kind, question := range questions {
		lines := strings.Split(restless.ReplaceAllString(h.Must(t, question...), "$1 "), "\n")
		sort.Strings(lines)
		m[kind] = strings.TrimSpace(strings.Join(lines, "\n"))
	}
	return m
}
