package ike

import "coati/policy"

// Who the two ends of a negotiation say they are, in either version.

// LocalIdentity is what we say we are: as configured, or as our certificate says, or our address.
func LocalIdentity(t *policy.PeerTunnel, path policy.Path) policy.Identity {
	if !t.LocalID.IsZero() {
		return t.LocalID
	}
	if t.LocalAuth == policy.ByNobody {
		return policy.Identity{Type: policy.IDNull}
	}
	if id := t.Credential.Identity(); t.LocalAuth == policy.ByCert && !id.IsZero() {
		return id
	}
	return policy.AddrIdentity(path.Local.Addr())
}

// RemoteIdentity is what the peer must say it is: as configured, its configured address, or for a peer at any address
// anything, since the key alone names it.
func RemoteIdentity(t *policy.PeerTunnel, path policy.Path) policy.Identity {
	switch {
	case t.RemoteAuth == policy.ByNobody, t.RemoteAuth == policy.ByEAP && t.RemoteID.IsZero() && t.EAP.Serves():
		// Of who authenticates by EAP, the identity of EAP counts (RFC 7296, section 2.16).
		return policy.Identity{Type: policy.IDAnyOne}
	case !t.RemoteID.IsZero():
		return t.RemoteID
	case t.Remote.IsValid():
		return policy.AddrIdentity(t.Remote)
	case t.RemoteHost != "":
		return policy.AddrIdentity(path.Remote.Addr())
	}
	return policy.Identity{Type: policy.IDAnyOne}
}

// ChildOf is the child of a tunnel that has a name; nil: none has.
func ChildOf(t *policy.PeerTunnel, name string) *policy.Child {
	for i := range t.Children {
		if t.Children[i].Name == name {
			return &t.Children[i]
		}
	}
	return nil
}
