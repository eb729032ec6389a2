package wire

// Limits of RFC 7296, in octets.
const (
	// HeaderLen is the length of the fixed IKE header, in octets.
	HeaderLen = 28
	// PayloadHeaderLen is the length of the generic payload header, in octets.
	PayloadHeaderLen = 4
	// FragmentHeaderLen is the length of the generic payload header and the fragment fields of SKF, in octets.
	FragmentHeaderLen = 8
	// MinNonce is the shortest nonce section 3.9 allows, in octets.
	MinNonce = 16
	// MaxNonce is the longest nonce section 3.9 allows, in octets.
	MaxNonce = 256
)

// Limits of this implementation, each far above what any peer sends and low enough that a hostile message stays cheap.
// Exceeding one is ErrTooMany, or for the message's length ErrLength.
const (
	// MaxMessage is the length of the largest message, in octets: what UDP and the 16-bit length of RFC 9329 carry.
	MaxMessage = 65535
	// MaxPayloads is the number of payloads in one chain: a message's clear ones, or the contents of one SK.
	MaxPayloads = 128
	// MaxProposals is the number of proposals in one SA payload.
	MaxProposals = 64
	// MaxTransforms is the number of transforms in one proposal.
	MaxTransforms = 128
	// MaxAttributes is the number of attributes of one transform; IKEv2 knows one.
	MaxAttributes = 8
	// MaxSelectors is the number of traffic selectors in one TS payload, all that its one-octet count can say.
	MaxSelectors = 255
	// MaxSPIs is the number of SPIs in one Delete payload.
	MaxSPIs = 4096
	// MaxConfigAttributes is the number of attributes in one Configuration payload.
	MaxConfigAttributes = 256
)
