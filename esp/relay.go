package esp

import "sync"

// All that comes from one peer comes by one socket, so a hot SA keeps one goroutine busy, however many processors there
// are. A relay gives the socket a second goroutine while datagrams wait in it: one decrypts what it received while the
// other still writes frames. What was received first is delivered first: each receive has a number, drawn while nobody
// else receives, and delivery waits for its turn. So packets stay in order, and a replay window of 32 packets sees no
// packet late.
//
// Nothing of this touches a link that is not busy: the second goroutine sleeps until several receives in a row left
// something behind, and again as soon as one did not.

// relayBacklog is how many receives in a row must have left something behind.
const relayBacklog = 4

// Relay joins the goroutines that carry what comes by one socket.
type Relay struct {
	help chan struct{} // there is a backlog

	receiving sync.Mutex // guards what follows, and the socket
	number    uint64     // of the last receive
	backlog   int        // receives in a row

	turn turnstile
}

// Receive waits for datagrams; more says that others wait behind them. The runs' buffers are the caller's until its
// next call.
type Receive func() (runs []Datagrams, more bool, err error)

// NewRelay makes a relay for one socket.
func NewRelay() *Relay {
	r := &Relay{help: make(chan struct{}, 1)}
	r.turn.init(0)
	return r
}

// Lead carries until receive fails, and returns that error. One goroutine leads.
func (r *Relay) Lead(in *Inbound, receive Receive) error {
	for {
		if _, err := r.carry(in, receive); err != nil {
			return err
		}
	}
}

// Help carries whenever there is a backlog, until Close. Its receive is of the same socket as Lead's, with other buffers.
func (r *Relay) Help(in *Inbound, receive Receive) {
	for range r.help {
		for {
			// Lead hears of the error too.
			if busy, err := r.carry(in, receive); !busy || err != nil {
				break
			}
		}
		select {
		case <-r.help: // told in between
		default:
		}
	}
}

// Close ends Help. Nobody may lead any more.
func (r *Relay) Close() { close(r.help) }

// carry brings one receive to its end.
func (r *Relay) carry(in *Inbound, receive Receive) (busy bool, err error) {
	number, busy, err := r.next(in, receive)
	if err != nil {
		return false, err
	}
	in.decrypt()
	r.turn.wait(number - 1)
	in.deliver()
	in.join.flushAll()
	r.turn.pass(number)
	return busy, nil
}

// next receives, and sorts what came: packets before their SA wait in the order of their arrival.
func (r *Relay) next(in *Inbound, receive Receive) (number uint64, busy bool, err error) {
	r.receiving.Lock()
	defer r.receiving.Unlock()
	runs, more, err := receive()
	if err != nil {
		return 0, false, err
	}
	r.number++
	r.backlog++
	if !more {
		r.backlog = 0
	}
	if busy = r.backlog >= relayBacklog; busy {
		select {
		case r.help <- struct{}{}:
		default: // it is told already
		}
	}
	in.held = true
	in.sortAll(runs)
	return r.number, busy, nil
}
