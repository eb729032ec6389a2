package tun

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Survey looks at this network namespace without claiming or changing anything; it needs no privilege.
type Survey struct{ host Host }

// OpenSurvey begins to look.
func OpenSurvey() (*Survey, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	look, err := openLookup()
	if err != nil {
		nl.Close()
		return nil, err
	}
	return &Survey{Host{mark: DefaultMark, nl: nl, lookup: look}}, nil
}

// Host answers RouteTo and Look; nothing else may be asked of it.
func (s *Survey) Host() *Host { return &s.host }

// Guard says, in words for people, why there cannot be a guard here; nil where there can, or where we may not look.
func (s *Survey) Guard() error {
	nft, err := openNFT(nil)
	if err != nil {
		return explainGuard(err)
	}
	defer func() { _ = nft.CloseLasting() }()
	if _, err := nft.ListTablesOfFamily(nftables.TableFamilyINet); err != nil && !errors.Is(err, unix.EPERM) {
		return explainGuard(err)
	}
	return nil
}

// Close ends it.
func (s *Survey) Close() {
	s.host.nl.Close()
	_ = s.host.lookup.close()
}
