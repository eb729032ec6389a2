package gateway

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"coati/ike"
)

func TestAPathIsFoundOrTheReasonSaid(t *testing.T) {
	t.Parallel()
	own, gone, elsewhere := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.5")
	peer, second, far, v6 := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::7")
	a := newAsker(func(to netip.Addr) (netip.Addr, error) {
		switch to {
		case far, v6:
			return netip.Addr{}, errors.New("no route to " + to.String())
		case second:
			return elsewhere, nil
		}
		return own, nil
	}, func(a netip.Addr) bool { return a != gone }, func(a netip.Addr) bool { return a == own })
	names := map[string][]netip.Addr{"one": {far, peer}, "none": nil, "v6": {v6}}
	a.resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
		if addrs, ok := names[host]; ok {
			return addrs, nil
		}
		return nil, errors.New("no such host")
	}
	for name, c := range map[string]struct {
		ask  ike.AskPath
		want ike.PathAnswer
		err  string
	}{
		"the route's":                  {ike.AskPath{Remote: peer}, ike.PathAnswer{Local: own, Remote: peer}, ""},
		"ours":                         {ike.AskPath{Remote: peer, Local: own}, ike.PathAnswer{Local: own, Remote: peer}, ""},
		"ours has gone":                {ike.AskPath{Remote: peer, Local: gone}, ike.PathAnswer{}, "192.0.2.9 is no address of this machine now: see local"},
		"no route":                     {ike.AskPath{Remote: far}, ike.PathAnswer{}, "no route to 198.51.100.1"},
		"from where nobody listens":    {ike.AskPath{Remote: second}, ike.PathAnswer{}, "leaves from 192.0.2.5, where nobody listens: name that address with local ="},
		"of another family":            {ike.AskPath{Remote: v6, Local: own}, ike.PathAnswer{}, "is of another family than ours"},
		"the first address with route": {ike.AskPath{Host: "one"}, ike.PathAnswer{Local: own, Remote: peer}, ""},
		"a name without address":       {ike.AskPath{Host: "none"}, ike.PathAnswer{}, "the name none has no address"},
		"a name without route":         {ike.AskPath{Host: "v6"}, ike.PathAnswer{}, "no route to 2001:db8::7"},
		"no name":                      {ike.AskPath{Host: "two"}, ike.PathAnswer{}, "the name two cannot be resolved: no such host"},
	} {
		got := a.answer(t.Context(), ike.Ask{ID: 7, What: c.ask})
		if got.ID != 7 || (got.Err == nil) != (c.err == "") || got.Err != nil && !strings.Contains(got.Err.Error(), c.err) {
			t.Errorf("%s: %v", name, got)
		}
		if got.Err == nil && got.Value != c.want {
			t.Errorf("%s: %v, want %v", name, got.Value, c.want)
		}
	}
}
