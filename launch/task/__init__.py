"""`shardnet task`: texts of files and pipes through the tasks of `shardnet.tasks`."""
