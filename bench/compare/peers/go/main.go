// Locks of Go clients, measured by dlock-bench: `peer NAME URL`. One JSON object a line, in and out.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"golang.org/x/sys/unix"
)

type ask struct {
	Do       string
	Key      string
	From     uint64
	Until    uint64
	Workload struct {
		Tasks  int
		Keys   string
		WorkUs int64 `json:"work_us"`
	}
}

type answer struct {
	Turns [][5]uint64 `json:"turns,omitempty"`
	Error string      `json:"error,omitempty"`
}

type release func() error
type acquire func(key string) (release, error)

// One client with its pool of connections.
func newRedsync(url string) (acquire, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	sync := redsync.New(goredis.NewPool(redis.NewClient(options)))
	return func(key string) (release, error) {
		mutex := sync.NewMutex(key, redsync.WithExpiry(30*time.Second))
		// It gives up after 32 tries of 50 to 250 ms.
		for {
			err := mutex.Lock()
			var taken *redsync.ErrTaken
			if err == nil {
				break
			} else if !errors.As(err, &taken) && !errors.Is(err, redsync.ErrFailed) {
				return nil, err
			}
		}
		return func() error {
			_, err := mutex.Unlock()
			return err
		}, nil
	}, nil
}

// A session for each acquisition: two goroutines on one session would both hold.
func newEtcd(url string) (acquire, error) {
	address := strings.Split(strings.Split(url, "://")[1], "/")[0]
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	var guard sync.Mutex
	var idle []*concurrency.Session
	return func(key string) (release, error) {
		guard.Lock()
		var session *concurrency.Session
		if len(idle) > 0 {
			session, idle = idle[len(idle)-1], idle[:len(idle)-1]
		}
		guard.Unlock()
		if session == nil {
			made, err := concurrency.NewSession(client)
			if err != nil {
				return nil, err
			}
			session = made
		}
		mutex := concurrency.NewMutex(session, "go-"+key)
		if err := mutex.Lock(context.Background()); err != nil {
			return nil, err
		}
		return func() error {
			err := mutex.Unlock(context.Background())
			guard.Lock()
			idle = append(idle, session)
			guard.Unlock()
			return err
		}, nil
	}, nil
}

func now() uint64 {
	var time unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &time); err != nil {
		panic(err)
	}
	return uint64(time.Nano())
}

func takeTurns(take acquire, asked ask) answer {
	var guard sync.Mutex
	var done answer
	var tasks sync.WaitGroup
	work := time.Duration(asked.Workload.WorkUs) * time.Microsecond
	for who := 0; who < asked.Workload.Tasks; who++ {
		tasks.Add(1)
		go func() {
			defer tasks.Done()
			key := asked.Key
			if asked.Workload.Keys != "one" {
				key = fmt.Sprintf("%s-%d", key, who)
			}
			var own [][5]uint64
			var failure string
			time.Sleep(time.Duration(int64(asked.From) - int64(now())))
			for from := now(); from < asked.Until; {
				free, err := take(key)
				if err != nil {
					failure = err.Error()
					break
				}
				acquired := now()
				if work > 0 {
					time.Sleep(work)
				}
				released := now()
				if err := free(); err != nil {
					failure = err.Error()
					break
				}
				end := now()
				own = append(own, [5]uint64{uint64(who), from, acquired, released, end})
				from = end
			}
			guard.Lock()
			defer guard.Unlock()
			done.Turns = append(done.Turns, own...)
			if failure != "" {
				done.Error = failure
			}
		}()
	}
	tasks.Wait()
	return done
}

func main() {
	makers := map[string]func(string) (acquire, error){"redsync": newRedsync, "etcd": newEtcd}
	take, err := makers[os.Args[1]](os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	fmt.Println("{}")
	for lines.Scan() {
		var asked ask
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		done := answer{Error: os.Args[1] + " does not " + asked.Do}
		if asked.Do == "turns" {
			done = takeTurns(take, asked)
		}
		if done.Error != "" {
			done.Turns = nil
		}
		if err := output.Encode(done); err != nil {
			panic(err)
		}
	}
}
