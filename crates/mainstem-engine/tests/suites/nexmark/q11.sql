SELECT b.bidder, count(*) AS bid_count, window_start AS starttime, window_end AS endtime
FROM session(bid, date_time, INTERVAL '10 seconds', PARTITION BY bidder) AS b
GROUP BY b.bidder, window_start, window_end
