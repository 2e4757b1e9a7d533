// A service of Go's tableflip that answers each connection with its process ID: what peers/services.rs has, in Go.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/cloudflare/tableflip"
)

func main() {
	upgrader, err := tableflip.New(tableflip.Options{})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGHUP)
		for range signals {
			if err := upgrader.Upgrade(); err != nil {
				log.Print(err)
			}
		}
	}()
	listener, err := upgrader.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var open sync.WaitGroup
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			go func() {
				defer open.Done()
				answer(connection)
			}()
		}
	}()
	if err := upgrader.Ready(); err != nil {
		log.Fatal(err)
	}
	<-upgrader.Exit()
	// The accept is not waited for: it goes on after a Close, on a socket that another process has made a blocking one.
	open.Wait()
}

func answer(connection net.Conn) {
	defer connection.Close()
	if _, err := http.ReadRequest(bufio.NewReader(connection)); err == nil {
		fmt.Fprintf(connection, "HTTP/1.0 200 OK\r\n\r\n%d", os.Getpid())
	}
}
