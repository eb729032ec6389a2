package policy

import "fmt"

// BehindOneNAT is an error if a new SA leads to another host behind the NAT that the peer of an older one, whose path is there, is
// behind, for some of the same traffic in transport mode: both peers have the NAT's address, and nothing in a packet to it says which
// of them is meant (RFC 3948, section 5.2). Two hosts have different private addresses, or prove to be different peers: behind
// routers of their own they may have the same address. A host that came back by another port is not another one.
func BehindOneNAT(sa, older *SA, there *Path) error {
	path := sa.Path.Unmap()
	if sa.Direction != Outbound || sa.Mode != Transport || path.Encap != EncapUDP || !sa.OriginalRemote.IsValid() ||
		older.Direction != Outbound || older.Mode != Transport || there.Encap != EncapUDP || !older.OriginalRemote.IsValid() {
		return nil
	}
	if was := there.Unmap(); was.Remote.Addr() != path.Remote.Addr() || was.Local.Addr() != path.Local.Addr() || was.Remote.Port() == path.Remote.Port() {
		return nil
	}
	who := older.OriginalRemote.String()
	switch {
	case older.OriginalRemote != sa.OriginalRemote:
	case older.Peer != sa.Peer && older.Peer != "" && sa.Peer != "":
		who = older.Peer + ", which has the same address " + who + " there"
	default:
		return nil
	}
	if len(Narrow(sa.Local, older.Local)) == 0 || len(Narrow(sa.Remote, older.Remote)) == 0 {
		return nil
	}
	return fmt.Errorf("another host behind the NAT at %s, %s, has an SA for this traffic, and answers to one could not be told from answers to the other (RFC 3948, section 5.2): use tunnel mode", path.Remote.Addr(), who)
}
