// Go's part in `cargo xtask bench threads`: the same tasks with goroutines. See src/peers.rs.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const blocks = 500 * time.Millisecond

func main() {
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		panic(err)
	}
	runtime.GOMAXPROCS(1)
	start := time.Now()
	switch os.Args[1] {
	case "create":
		for i := 0; i < count; i++ {
			done := make(chan int)
			go func() { done <- i }()
			<-done
		}
	case "yield":
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				for i := 0; i < count/2; i++ {
					runtime.Gosched()
				}
			})
		}
		group.Wait()
	case "channel":
		there, back := make(chan int, 1), make(chan int, 1)
		go func() {
			for value := range there {
				back <- value
			}
		}()
		for i := 0; i < count/2; i++ {
			there <- i
			<-back
		}
	case "blocked":
		fmt.Println(blocked(count, func() {}))
		return
	case "idle":
		var used int64
		blocked(count, func() {
			time.Sleep(100 * time.Millisecond)
			before := processorTime()
			time.Sleep(time.Second)
			used = processorTime() - before
		})
		fmt.Println(float64(used) / 1e6)
		return
	case "gap", "announced-gap":
		fmt.Println(gap())
		return
	case "echo":
		echo()
		return
	default:
		fmt.Println("none")
		return
	}
	fmt.Println(float64(time.Since(start).Nanoseconds()) / float64(count))
}

func blocked(count int, meanwhile func()) float64 {
	before := resident()
	gate := make(chan struct{})
	var arrived atomic.Int64
	var group sync.WaitGroup
	for i := 0; i < count; i++ {
		group.Go(func() {
			arrived.Add(1)
			<-gate
		})
	}
	for arrived.Load() < int64(count) {
		runtime.Gosched()
	}
	bytes := float64(resident()-before) / float64(count)
	meanwhile()
	close(gate)
	group.Wait()
	return bytes
}

func gap() float64 {
	go func() {
		time.Sleep(20 * time.Millisecond)
		// In the kernel, not in the scheduler.
		pause := syscall.NsecToTimespec(blocks.Nanoseconds())
		syscall.Nanosleep(&pause, nil)
	}()
	start, last, longest := time.Now(), time.Now(), time.Duration(0)
	for time.Since(start) < 2*blocks {
		time.Sleep(time.Millisecond)
		longest = max(longest, time.Since(last))
		last = time.Now()
	}
	return longest.Seconds() * 1e3
}

func echo() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	go func() {
		for {
			stream, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				buffer := make([]byte, 4096)
				for {
					length, err := stream.Read(buffer)
					if err != nil {
						return
					}
					if _, err := stream.Write(buffer[:length]); err != nil {
						return
					}
				}
			}()
		}
	}()
	io.Copy(io.Discard, os.Stdin)
}

func resident() int64 {
	text, _ := os.ReadFile("/proc/self/status")
	var sum int64
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "VmRSS:") || strings.HasPrefix(line, "VmPTE:") {
			kib, _ := strconv.ParseInt(strings.Fields(line)[1], 10, 64)
			sum += kib * 1024
		}
	}
	return sum
}

func processorTime() int64 {
	var sum int64
	threads, _ := os.ReadDir("/proc/self/task")
	for _, thread := range threads {
		text, _ := os.ReadFile("/proc/self/task/" + thread.Name() + "/schedstat")
		used, _ := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		sum += used
	}
	return sum
}
