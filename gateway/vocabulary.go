package gateway

// The keys of the log. Every line uses these names and no others for these things, so that a machine can read them; what
// the IKE machines log uses the same.
const (
	keyTunnel  = "tunnel"  // name of a configured tunnel
	keyChild   = "child"   // name of one of its children
	keyPeer    = "peer"    // address and port of the other gateway
	keyLocal   = "local"   // address and port of ours
	keyReason  = "reason"  // why; an error's text
	keySPI     = "spi"     // of an ESP SA, hexadecimal
	keyEvent   = "event"   // what the engine was handling
	keyChange  = "change"  // what a reload changes, one line
	keyFault   = "fault"   // file:line: message
	keyPlane   = "plane"   // who moves ESP
	keyDevice  = "tun"     // name of our device
	keyUplink  = "uplink"  // name of another interface
	keyMTU     = "mtu"     // octets
	keyVerdict = "verdict" // what a word that anybody could have said is worth
	keyQueues  = "queues"  // of the device
	keyOffload = "offload" // what the kernel does for us
	keyFolder  = "folder"  // of the key log
	keySocket  = "socket"  // path of the control socket
	keyCount   = "count"   // of what the message names
	keyVersion = "version" // of this program
)
